// Tests of the test harness itself.
import { statSync } from 'node:fs';
import { connect } from 'node:tls';
import { Redis } from 'ioredis';
import { describe, expect, onTestFinished, test } from 'vitest';
import { startFixture } from './process.js';
import { createRandom } from './random.js';
import { sharedDb, sharedRedis, startRedis } from './redis.js';
import { startClockedRedis, whyNoServerClock } from './server-clock.js';
import { deferred, eventually, within } from './wait.js';

/** Whether a process exists (signal 0 only checks). */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function withClient<T>(client: Redis, use: (client: Redis) => Promise<T>): Promise<T> {
  client.on('error', () => {});
  try {
    return await use(client);
  } finally {
    client.disconnect();
  }
}

describe('redis', () => {
  test('starts a server on a free port and ends it', async () => {
    const server = await startRedis();
    const pid = server.pid ?? -1;
    expect(server.port).not.toBe(6379);
    expect(await withClient(new Redis(server.url), (client) => client.ping())).toBe('PONG');
    await server[Symbol.asyncDispose]();
    expect(isAlive(pid)).toBe(false);
    expect(() => statSync(server.folder)).toThrow();
  });

  test('keeps its port and, with appendonly, its data over restart and kill', async () => {
    await using server = await startRedis({ appendonly: true });
    const { port } = server;
    await (await server.client()).set('key', 'value');
    await server.restart();
    expect(server.port).toBe(port);
    expect(await (await server.client()).get('key')).toBe('value');
    await (await server.client()).set('key', 'other');
    await server.kill();
    expect(server.running).toBe(false);
    await server.start();
    expect(await (await server.client()).get('key')).toBe('other');
  });

  test('can be paused and resumed', async () => {
    await using server = await startRedis();
    const client = await server.client();
    server.pause();
    const reply = client.ping();
    await expect(within(reply, 100, 'a reply')).rejects.toThrow('not within 100 ms');
    server.resume();
    expect(await reply).toBe('PONG');
  });

  test('requires a password, by user', async () => {
    await using server = await startRedis({
      requirepass: 'se cret',
      users: { alice: 'on >wonder ~a:* &* +@all' },
    });
    const bare = new Redis({ port: server.port, retryStrategy: () => null });
    await withClient(bare, (client) => expect(client.get('a')).rejects.toThrow('NOAUTH'));
    await withClient(new Redis(server.url), async (client) => {
      expect(await client.set('b:1', 1)).toBe('OK');
    });
    const url = server.urlFor({ username: 'alice', password: 'wonder' });
    await withClient(new Redis(url), async (client) => {
      expect(await client.set('a:1', 1)).toBe('OK');
      await expect(client.set('b:1', 1)).rejects.toThrow('NOPERM');
    });
    expect(await server.dbsize()).toBe(2);
  });

  test('serves TLS with a certificate of its CA', async () => {
    await using server = await startRedis({ tls: true });
    expect(server.url).toMatch(/^rediss:/);
    const { ca = '' } = server.tls ?? {};
    const client = new Redis(server.url, { tls: { ca } });
    expect(await withClient(client, (connected) => connected.ping())).toBe('PONG');

    const refused = deferred<Error>();
    connect({ host: server.host, port: server.port }).on('error', refused.resolve);
    expect(await refused.promise).toMatchObject({
      code: expect.stringMatching(/SELF_SIGNED|VERIFY/),
    });
  });

  test('accepts further configuration', async () => {
    await using server = await startRedis({
      notifyKeyspaceEvents: 'Ex',
      config: { maxmemory: '32mb' },
    });
    const client = await server.client();
    expect(await client.config('GET', 'maxmemory')).toEqual(['maxmemory', String(32 * 1024 ** 2)]);
    expect(await client.config('GET', 'notify-keyspace-events')).toEqual([
      'notify-keyspace-events',
      'xE',
    ]);
  });

  test('reports why a server did not start', async () => {
    await expect(startRedis({ config: { 'no-such-option': 1 } })).rejects.toThrow('no-such-option');
  });

  test('is shared within a file, with separate databases', async () => {
    const [one, two] = [await sharedDb(), await sharedDb()];
    expect(one.server).toBe(await sharedRedis());
    expect(two.server).toBe(one.server);
    await withClient(new Redis(one.url), (client) => client.set('key', 1));
    expect(await one.server.dbsize(one.db)).toBe(1);
    expect(await one.server.dbsize(two.db)).toBe(0);
    await one.server.flush(one.db);
    expect(await one.server.dbsize(one.db)).toBe(0);
  });
});

describe('process', () => {
  test('runs a program with arguments, environment and messages', async () => {
    await using child = startFixture<Record<string, unknown>>('support/fixtures/echo.mjs', {
      args: ['x'],
      env: { MARK: 'here' },
    });
    const ready = await child.message((message) => 'ready' in message);
    expect(ready).toEqual({ ready: true, args: ['x'], mark: 'here' });
    child.send({ big: 2n ** 64n });
    expect(await child.message((message) => 'echo' in message)).toEqual({
      echo: { big: 2n ** 64n },
    });
    child.send('end');
    expect(await child.exited).toEqual({ code: 0, signal: null });
    await expect(child.message(() => false)).rejects.toThrow('ended (code 0)');
  });

  test('ends a program by signal', async () => {
    const child = startFixture('support/fixtures/echo.mjs');
    expect(await child.kill()).toEqual({ code: null, signal: 'SIGKILL' });
  });
});

describe('wait', () => {
  test('eventually returns the first result that is not false', async () => {
    let calls = 0;
    expect(await eventually(() => ++calls >= 3 && calls, { intervalMs: 1 })).toBe(3);
  });

  test('eventually rejects with the last error', async () => {
    const failing = () => expect(1).toBe(2);
    await expect(eventually(failing, { timeoutMs: 20, intervalMs: 1 })).rejects.toThrow('to be 2');
  });
});

describe('random', () => {
  test('returns the same sequence for the same stream, and different ones for different streams', () => {
    const draw = (stream: number) => {
      const random = createRandom(stream);
      return Array.from({ length: 20 }, () => random.int(0, 1000));
    };
    expect(draw(1)).toEqual(draw(1));
    expect(draw(1)).not.toEqual(draw(2));
  });

  test('stays within bounds', () => {
    const random = createRandom();
    const rolls = Array.from({ length: 1000 }, () => random.int(1, 6));
    expect(new Set(rolls)).toEqual(new Set([1, 2, 3, 4, 5, 6]));
    expect(random.shuffle([1, 2, 3]).sort()).toEqual([1, 2, 3]);
    expect(() => random.pick([])).toThrow(RangeError);
  });
});

const noClock = whyNoServerClock();
if (noClock !== undefined) console.log(`skipped: server clocks (${noClock})`);

describe.skipIf(noClock !== undefined)('a server with its own clock', () => {
  test('the clock changes while the server runs, and TTLs follow it', async () => {
    const { server, clock } = await startClockedRedis();
    onTestFinished(() => server[Symbol.asyncDispose]());
    const redis = await server.client();
    const now = async () => Number((await redis.time())[0]) * 1000;
    const ahead = async () => Math.round(((await now()) - Date.now()) / 60_000) + 0;
    expect(await ahead()).toBe(0);
    await redis.set('k', 'v', 'PX', 60_000);
    clock.set(-3_600_000);
    await eventually(async () => expect(await ahead()).toBe(-60));
    expect(await redis.pttl('k')).toBeGreaterThan(3_600_000);
    clock.set(120_000);
    await eventually(async () => expect(await redis.get('k')).toBeNull());
  });
});
