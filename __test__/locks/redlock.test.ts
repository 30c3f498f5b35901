// Spec 8.6 and issue 5, "It must show" 7: locks on a majority of five servers.
import type { AcquireOptions, PresenceClient } from 'rollcall';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient, type Untyped } from '../support/clients.js';
import { createRandom } from '../support/random.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually, startClock } from '../support/wait.js';

type Client = PresenceClient<Untyped>;

const ADA: AcquireOptions = { ownerId: 'ada' };
const BOB: AcquireOptions = { ownerId: 'bob' };
const CHANNEL = { channelType: 'doc', channelName: 'd' };
const KEY = 'prs:lock:l';
const TOKEN = 'prs:{prs:lock:l}:token';

let servers: RedisServer[];

beforeAll(async () => {
  // Their data outlive a kill, unless a test says otherwise.
  servers = await Promise.all(Array.from({ length: 5 }, () => startRedis({ appendonly: true })));
});

afterAll(async () => {
  await Promise.all(servers.map((server) => server[Symbol.asyncDispose]()));
});

beforeEach(async () => {
  for (const server of servers) {
    server.resume();
    if (!server.running) await server.start();
    await server.flush();
  }
});

// Before the clients are closed: they give back what they hold.
afterEach(() => {
  for (const server of servers) server.resume();
});

function connect(options: object = {}): Promise<Client> {
  return openClient({ url: servers.map(({ url }) => url), ...options });
}

/** Gives up at once, for locks that are not to be had. */
const IMPATIENT = { locks: { retryCount: 0 } };

/** On how many servers that run something is stored. */
async function count(key: string): Promise<number> {
  const found = await Promise.all(
    servers.map(async (server) => {
      if (!server.running) return 0;
      const redis = await server.client();
      const exists = await redis.exists(key);
      redis.disconnect();
      return exists;
    }),
  );
  return found.reduce((sum, one) => sum + one, 0);
}

async function set(server: RedisServer, key: string, value: string): Promise<void> {
  const redis = await server.client();
  await redis.set(key, value);
  redis.disconnect();
}

function pick(...places: number[]): RedisServer[] {
  return places.map((place) => servers[place] as RedisServer);
}

test('8.6 a lock is on all servers, with one token, and released on all', async () => {
  const [one, two] = [await connect(), await connect(IMPATIENT)];
  const lock = await one.locks.acquire('l', ADA);
  expect(await count(KEY)).toBe(5);
  for (const server of servers) {
    const redis = await server.client();
    expect(await redis.get(TOKEN)).toBe(String(lock.fencingToken));
    redis.disconnect();
  }
  expect(await two.locks.inspect('l')).toMatchObject({
    ownerId: 'ada',
    fencingToken: lock.fencingToken,
  });
  await expect(two.locks.acquire('l', BOB)).rejects.toEqual(failure('LOCK_UNAVAILABLE', '"ada"'));
  await lock.release();
  expect(await count(KEY)).toBe(0);
  expect(await two.locks.inspect('l')).toBeNull();
});

test('issue 5, 7: with two servers down it works, also when they were down from the beginning', async () => {
  const early = await connect();
  for (const server of pick(3, 4)) await server.kill();
  const late = await connect();
  for (const client of [early, late]) {
    const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 3_000 });
    expect(await count(KEY)).toBe(3);
    const first = lock.expiresAt;
    await eventually(() => lock.expiresAt > first + 3_000, { timeoutMs: 20_000 });
    await lock.extend();
    await lock.release();
    expect(await count(KEY)).toBe(0);
  }
});

test('issue 5, 7: with three down it fails within the retry budget, and leaves nothing behind', async () => {
  const client = await connect();
  for (const server of pick(2, 3, 4)) await server.kill();
  // 3 more tries with 200 to 400 ms before each: what the message counts, no clock has to.
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure(
      'LOCK_UNAVAILABLE',
      '3 of 5 servers: 2 answered, nobody else is known to hold it; tried 4',
    ),
  );
  expect(await count(KEY)).toBe(0);
  expect(await count(TOKEN)).toBe(0);
  await expect(client.locks.inspect('l')).rejects.toEqual(failure('UNAVAILABLE', '2 of 5'));
});

test('issue 5, 7: with three that do not answer it fails too, and nothing is left when they do', async () => {
  const client = await connect(IMPATIENT);
  for (const server of pick(2, 3, 4)) server.pause();
  await expect(client.locks.acquire('l', { ...ADA, ttlMs: 600_000 })).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '2 answered'),
  );
  for (const server of servers) server.resume();
  // They carry out what they were sent, and then what takes it back: long before the TTL.
  await eventually(async () => expect(await count(KEY)).toBe(0));
  await (await client.locks.acquire('l', ADA)).release();
});

test('8.6 what a minority has granted is taken back', async () => {
  const client = await connect(IMPATIENT);
  for (const server of pick(0, 1, 2)) await set(server, KEY, 'bob');
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '"bob"'),
  );
  for (const server of pick(3, 4)) expect(await server.dbsize()).toBe(0);
  // A try that failed has used up no token, so it is in nobody's way.
  expect(await count(TOKEN)).toBe(0);
  expect(await client.locks.inspect('l')).toMatchObject({ ownerId: 'bob', fencingToken: null });
});

test('8.6 waitMs goes on trying; a signal ends it', async () => {
  const [one, two] = [await connect(), await connect()];
  const lock = await one.locks.acquire('l', ADA);
  const controller = new AbortController();
  const { signal } = controller;
  const gone = two.locks.acquire('l', { ...BOB, waitMs: Number.POSITIVE_INFINITY, signal });
  const next = two.locks.acquire('l', { ownerId: 'cy', waitMs: 60_000 });
  const reason = new Error('enough');
  controller.abort(reason);
  const error: Error = await gone.then(
    () => expect.fail('granted'),
    (thrown) => thrown,
  );
  expect(error).toEqual(failure('LOCK_UNAVAILABLE', 'signal was aborted'));
  expect(error.cause).toBe(reason);
  await lock.release();
  const held = await next;
  expect(held.fencingToken).toBeGreaterThan(lock.fencingToken);
  await held.release();
});

test('8.5 and 8.6: lost fires when no majority renews the lock', async () => {
  const client = await connect();
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 600 });
  for (const server of pick(2, 3, 4)) await server.kill();
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  for (const server of pick(2, 3, 4)) await server.start();
  const other = await connect();
  const next = await other.locks.acquire('l', { ...BOB, waitMs: 20_000 });
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  await next.release();
});

test('8.6 servers that were down take part in the lock again with the next renewal', async () => {
  const client = await connect();
  for (const server of pick(3, 4)) await server.kill();
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 900 });
  for (const server of pick(3, 4)) await server.start();
  await eventually(async () => expect(await count(KEY)).toBe(5));
  // So that others may go now.
  for (const server of pick(1, 2)) await server.kill();
  const before = lock.expiresAt;
  await eventually(() => lock.expiresAt > before + 900);
  await lock.release();
});

test('issue 5, 7: one that comes back empty, so that two hold the lock: the token tells them apart', async () => {
  const [one, two] = [await connect(), await connect()];
  for (const server of pick(3, 4)) await server.kill();
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  const [empty] = pick(2) as [RedisServer];
  await empty.flush();
  for (const server of pick(3, 4)) await server.start();
  // Servers 2, 3 and 4 know nothing of it.
  const next = await two.locks.acquire('l', { ...BOB, waitMs: 20_000 });
  expect(await count(KEY)).toBe(5);
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  // Where metadata is, the first lock still stands; but the newer token is known there.
  await expect(
    one.metadata.set({
      ...CHANNEL,
      data: [],
      options: { lockName: 'l' },
      actorUserId: 'ada',
      fencingToken: lock.fencingToken,
    }),
  ).rejects.toEqual(failure('METADATA_LOCK'));
  await next.release();
});

test('issue 5, 7: one whose clock has jumped ahead: its lock ends early, its tokens are great', async () => {
  const [one, two] = [await connect(), await connect(IMPATIENT)];
  const [jumped] = pick(4) as [RedisServer];
  // What its clock would have made of it: tokens an hour ahead, and keys that end before their time.
  const ahead = (Date.now() + 3_600_000) * 1000;
  await set(jumped, TOKEN, String(ahead));
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  expect(lock.fencingToken).toBe(ahead + 1);
  const redis = await jumped.client();
  await redis.del(KEY, 'prs:{prs:lock:l}:holder');
  redis.disconnect();
  // One server is no majority.
  await expect(two.locks.acquire('l', BOB)).rejects.toEqual(failure('LOCK_UNAVAILABLE', '"ada"'));
  await lock.release();
  // And the next majority knows how far the first has come, although that server is not part of it.
  await jumped.kill();
  const next = await two.locks.acquire('l', BOB);
  expect(next.fencingToken).toBeGreaterThan(ahead + 1);
  await next.release();
});

test('8.3 and 8.6: tokens grow from majority to majority, whichever two servers are down', async () => {
  const random = createRandom(7);
  const client = await connect();
  // So that the clocks are no help: each must learn from the one before.
  const ahead = (Date.now() + 3_600_000) * 1000;
  await set(servers[0] as RedisServer, TOKEN, String(ahead));
  const tokens: number[] = [];
  let down: number[] = [];
  for (let round = 0; round < size(2, 4); round++) {
    for (const place of down) await servers[place]?.start();
    const lock = await client.locks.acquire('l', { ...ADA, waitMs: 20_000 });
    tokens.push(lock.fencingToken);
    down = random.shuffle([1, 2, 3, 4]).slice(0, 1);
    if (round > 0) down.push(0);
    for (const place of down) await servers[place]?.kill();
    await lock.release();
    const again = await client.locks.acquire('l', { ...ADA, waitMs: 20_000 });
    tokens.push(again.fencingToken);
    await again.release();
  }
  expect(tokens[0]).toBeGreaterThan(ahead);
  expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
}, 60_000);

test('8.6 one holder at a time, with contenders in several clients', async () => {
  const clients = [await connect(), await connect(), await connect()];
  let inside = 0;
  const tokens: number[] = [];
  await Promise.all(
    clients.map(async (client, n) => {
      for (let round = 0; round < 5; round++) {
        const lock = await client.locks.acquire('l', { ownerId: `c${n}`, waitMs: 60_000 });
        expect(++inside).toBe(1);
        tokens.push(lock.fencingToken);
        expect(await client.locks.inspect('l')).toMatchObject({ ownerId: `c${n}` });
        inside--;
        await lock.release();
      }
    }),
  );
  expect(tokens.length).toBe(15);
  expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
});

test('8.7 revoke takes it away on all; there are no events', async () => {
  const [one, two] = [await connect(), await connect()];
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600 });
  expect(await two.locks.revoke('l')).toEqual({ ownerId: 'ada', fencingToken: lock.fencingToken });
  expect(await count(KEY)).toBe(0);
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  expect(await two.locks.revoke('l')).toBeNull();
  await expect(two.locks.subscribe(() => {})).rejects.toEqual(failure('UNSUPPORTED'));
});

test('8.6 locks can be on servers of their own; everything else is where url says', async () => {
  const urls = pick(1, 2, 3).map(({ url }) => url);
  const client = await openClient({ url: servers[0]?.url as string, locks: { urls } });
  const lock = await client.locks.acquire('l', ADA);
  expect(await servers[0]?.dbsize()).toBe(0);
  expect(await count(KEY)).toBe(3);
  await lock.release();
});

test.each([
  ['two servers', ['redis://127.0.0.1:1', 'redis://127.0.0.1:2'], 'at least 3'],
  ['one twice', ['redis://a:1', 'redis://b:1', 'redis://a:1'], 'twice'],
  ['none', [], 'at least one'],
  ['something else', ['redis://127.0.0.1:1', 5], 'url'],
] as const)('8.6 %s is refused', async (_, url, named) => {
  await expect(openClient({ url } as never)).rejects.toEqual(failure('INVALID_ARGUMENT', named));
});

test('6 a lock server that does not answer delays no pass of the reaper', async () => {
  const [main, ...others] = servers as [RedisServer, ...RedisServer[]];
  const client = await openClient({
    url: main.url,
    locks: { urls: others.map(({ url }) => url) },
    limits: { commandTimeoutMs: 5_000 },
  });
  await client.reapOnce();
  others[0]?.pause();
  const clock = startClock();
  await client.reapOnce();
  expect(clock.ms).toBeLessThan(2_500);
});
