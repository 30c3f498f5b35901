// When a process with clients ends, and when it stays alive (spec 11.3). Each case is a real
// process: fixtures/program.mjs.
import { describe, expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { type Fixture, startFixture } from '../support/process.js';
import { sharedDb, startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

interface Message {
  at: string;
  text?: string;
}

/** Starting Node.js takes time on a busy machine. */
const END_MS = 8000;

function start(name: string, url: string): Fixture<Message> {
  return startFixture<Message>('lifecycle/fixtures/program.mjs', { args: [name, url] });
}

function places(program: Fixture<Message>): string[] {
  return program.messages.map(({ at }) => at);
}

async function urlOf(store: 'redis' | 'memory'): Promise<string> {
  return store === 'redis' ? (await sharedDb()).url : 'memory://';
}

describe.each(['redis', 'memory'] as const)('11.3 on %s: the process ends by itself', (store) => {
  test.each([
    ['after close(), with subscriptions and the reaper', 'close', 'closed'],
    ['after close() in a handler', 'closeInHandler', 'closed'],
    ['after Symbol.asyncDispose', 'dispose', 'closed'],
    ['with an idle client', 'idle', 'idle'],
    ['with an idle client, its reaper and listeners', 'idleWithReaper', 'idle'],
    ['with a lock that is held', 'idleWithLock', 'idle'],
    ['after the last handler is unsubscribed', 'unsubscribed', 'unsubscribed'],
    ['after the loop over events()', 'iterated', 'iterated'],
    ['after a connect that failed', 'failedConnect', 'UNAVAILABLE'],
  ])('%s', async (_, name, last) => {
    await using program = start(name, await urlOf(store));
    const exit = await within(program.exited, END_MS, 'the end of the process');
    expect(exit, program.stderr).toEqual({ code: 0, signal: null });
    expect(places(program).at(-1)).toBe(last);
    expect(program.stderr).toBe('');
  });

  test('4: errors and rejections in handlers do not end the process and are logged', async () => {
    await using program = start('throwingHandlers', await urlOf(store));
    const exit = await within(program.exited, END_MS, 'the end of the process');
    expect(exit, program.stderr).toEqual({ code: 0, signal: null });
    expect(places(program)).toContain('survived');
    const logged = program.messages.flatMap(({ text }) => text ?? []);
    expect(logged).toContain('Presence event handler threw Error: thrown by a handler');
    expect(logged).toContain('Presence event handler rejected Error: rejected by a handler');
    expect(logged.some((line) => line.includes('a thenable that throws'))).toBe(true);
  });

  test('process.exit() in a handler, with calls in flight', async () => {
    await using program = start('exitInHandler', await urlOf(store));
    const exit = await within(program.exited, END_MS, 'the end of the process');
    expect(exit, program.stderr).toEqual({ code: 7, signal: null });
  });

  test('an uncaught error, with calls in flight', async () => {
    await using program = start('uncaught', await urlOf(store));
    const exit = await within(program.exited, END_MS, 'the end of the process');
    expect(exit, program.stderr).toEqual({ code: 1, signal: null });
    expect(program.stderr).toContain('a mistake in the program');
  });
});

describe('11.3: the process stays alive with', () => {
  test('an active subscription', async () => {
    const { url } = await sharedDb();
    await using program = start('subscribed', url);
    await program.message(({ at }) => at === 'subscribed');
    // An idle process would end within this time (see the tests above).
    await expect(within(program.exited, 700, 'the end')).rejects.toThrow('not within');
    const client = await openClient(url);
    await client.join({ roomId: 'r', userId: 'u', connId: 'end' });
    expect(await within(program.exited, END_MS, 'the end')).toEqual({ code: 0, signal: null });
    expect(places(program)).toEqual(['subscribed', 'heard']);
  });

  test.each([
    ['a pending call', 'pending', 'left'],
    ['a pending heartbeat', 'pendingHeartbeat', 'refreshed'],
  ])('%s', async (_, name, done) => {
    await using server = await startRedis();
    await using program = start(name, server.url);
    await program.message(({ at }) => at === 'ready');
    server.pause();
    await program.message(({ at }) => at === 'pending');
    await expect(within(program.exited, 700, 'the end')).rejects.toThrow('not within');
    server.resume();
    expect(await within(program.exited, END_MS, 'the end')).toEqual({ code: 0, signal: null });
    expect(places(program).at(-1)).toBe(done);
  });
});

test('11.3: ends within 2 s on process.exit() with calls pending', async () => {
  await using server = await startRedis();
  await using program = start('exitWithPending', server.url);
  await program.message(({ at }) => at === 'ready');
  server.pause();
  await program.message(({ at }) => at === 'exiting');
  expect(await within(program.exited, 2000, 'the end')).toEqual({ code: 7, signal: null });
});

test('a client that is dropped without close is collected, and its connections are closed', async () => {
  await using server = await startRedis();
  const admin = await server.client();
  const clients = async () =>
    String(await admin.client('LIST'))
      .split('\n')
      .filter((line) => line.includes('lib-name=rollcall') || line.includes('user=default')).length;
  await using program = startFixture<Message>('lifecycle/fixtures/garbage.mjs', {
    args: [server.url],
    execArgv: ['--expose-gc'],
  });
  await program.message(({ at }) => at === 'started');
  expect(await clients()).toBe(0);
  program.send('open');
  await program.message(({ at }) => at === 'opened', 15_000);
  // The client with an open subscription stays, with its two connections, and receives events.
  await eventually(async () => expect(await clients()).toBe(2), { timeoutMs: 10_000 });
  const client = await openClient(server.url);
  await client.join({ roomId: 'r', userId: 'u', connId: 'after' });
  await program.message(({ at }) => at === 'heard');
  program.send('end');
  expect(await within(program.exited, END_MS, 'the end')).toEqual({ code: 0, signal: null });
});

test('clients in worker threads work, and workers can be terminated with calls in flight', async () => {
  const { url } = await sharedDb();
  await using program = startFixture<{ codes: number[]; joined: number }>(
    'lifecycle/fixtures/workers.mjs',
    { args: [url, '15'] },
  );
  const exit = await within(program.exited, 18_000, 'the end of the process');
  expect(exit, program.stderr).toEqual({ code: 0, signal: null });
  expect(program.messages).toEqual([{ codes: [0, 0], joined: 1 }]);
});
