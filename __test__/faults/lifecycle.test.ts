// Processes that end during work, clients that are never closed, and faulty handlers. Nothing
// hangs, leaks or crashes.
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, onTestFinished } from 'vitest';
import { startFixture } from '../support/process.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';
import { count, environmentWithout, type Failpoint, LONG, type Own, proven } from './proven.js';
import { connect } from './world.js';

interface Holdings {
  threads: number;
  files: number;
  rss: number;
}

interface Message {
  at: string;
  text?: string;
  before?: Holdings;
  after?: Holdings | string;
  joined?: number;
  received?: number;
  resyncs?: string[];
  seen?: string[];
  logged?: string[];
  codes?: number[];
  settled?: Record<string, unknown>;
}

const MIB = 1 << 20;

function start(
  server: RedisServer,
  name: string,
  of: number | string,
  off: readonly (Failpoint | Own)[],
) {
  const program = startFixture<Message>('faults/fixtures/lifecycle.mjs', {
    args: [name, server.url, String(of)],
    execArgv: ['--expose-gc'],
    env: environmentWithout(...off),
  });
  onTestFinished(async () => {
    await program.kill();
  });
  const at = (where: string, timeoutMs: number) =>
    program.message((message) => message.at === where, timeoutMs);
  return Object.assign(program, { at });
}

/** The number of client connections on the server. */
async function clientsOf(server: RedisServer): Promise<number> {
  const admin = await server.client();
  const list = String(await admin.client('LIST'));
  admin.disconnect();
  return list.split('\n').filter((line) => line.includes('user=default')).length;
}

async function pubsubClients(server: RedisServer): Promise<number> {
  const admin = await server.client();
  const list = String(await admin.client('LIST', 'TYPE', 'PUBSUB'));
  admin.disconnect();
  return list.split('\n').filter((line) => line.includes('user=default')).length;
}

/** No resource was leaked, apart from a little memory for the kernel and V8. */
function expectNoLeak({ before, after }: Message, rssMib: number): void {
  if (!before || !after || typeof after === 'string') throw new Error('there are no holdings');
  expect(after.threads, 'threads').toBeLessThanOrEqual(before.threads + 2);
  expect(after.files, 'files').toBeLessThanOrEqual(before.files + 10);
  expect((after.rss - before.rss) / MIB, 'MiB of memory').toBeLessThan(rssMib);
}

describe('7: lifecycle', () => {
  const workers = count(100, 1000);
  const timeoutMs = LONG ? 400_000 : 60_000;
  proven(
    `${workers} worker threads, terminated in flight`,
    { without: 'ending', timeoutMs },
    async (off) => {
      await using server = await startRedis();
      const program = start(server, 'workers', off.length > 0 ? 50 : workers, off);
      const done = await program.at('terminated', timeoutMs);
      expect(done.joined).toBe(1);
      // Plus the two connections of the main thread.
      await eventually(async () => expect(await clientsOf(server)).toBe(2));
      console.log('workers:', JSON.stringify([done.before, done.after]));
      expectNoLeak(done, 60);
      program.send('end');
      expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
    },
  );

  const dropped = count(1000, 10_000);
  proven(
    `${dropped} clients dropped without close`,
    { without: 'ending', timeoutMs },
    async (off) => {
      await using server = await startRedis();
      const program = start(server, 'dropped', off.length > 0 ? 200 : dropped, off);
      const done = await program.at('dropped', timeoutMs);
      console.log('dropped:', JSON.stringify([done.before, done.after]));
      await eventually(async () => expect(await clientsOf(server)).toBe(0));
      expectNoLeak(done, 20);
      program.send('end');
      expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
    },
  );

  const exits = count(30, 200);
  proven(
    `${exits} process exits with calls pending`,
    { without: 'exit', timeoutMs },
    async (off) => {
      await using server = await startRedis();
      const hold = await connect({ url: server.url });
      await hold.locks.acquire('l', { ownerId: 'somebody' });
      const stays = off.includes('exit');
      for (let i = 0; i < (stays ? 4 : exits); i += 4) {
        const programs = [0, 1, 2, 3].map(() => start(server, 'exits', stays ? 'stays' : i, []));
        const ends = Promise.all(programs.map((program) => program.exited));
        for (const end of await within(ends, stays ? 3000 : 15_000, 'the ends')) {
          expect(end, programs.map(({ stderr }) => stderr).join('')).toEqual({
            code: 7,
            signal: null,
          });
        }
      }
    },
  );

  const blockMs = LONG ? 10_000 : 2000;
  proven(
    `a handler that blocks for ${blockMs / 1000} s`,
    { without: 'event-bound', timeoutMs: 120_000 },
    async (off) => {
      // The core reads while JavaScript is blocked, so that the server's output limit is not
      // reached.
      const limit = 'pubsub 4mb 2mb 1';
      await using server = await startRedis({ config: { 'client-output-buffer-limit': limit } });
      // It blocks until everything has been sent; the duration depends on the machine.
      const sent = path.join(server.folder, 'sent');
      const program = start(server, 'blocks', `${blockMs} ${sent}`, off);
      await program.at('blocking', 5000);
      const writer = await connect({ url: server.url });
      const state = { big: 'x'.repeat(20_000) };
      for (let i = 0; i < 8000; i += 100) {
        const joins = Array.from({ length: 100 }, (_, j) =>
          writer.join({ roomId: 'r', userId: 'u', connId: `c${i + j}`, state, snapshot: false }),
        );
        await Promise.all(joins);
      }
      writeFileSync(sent, '');
      const done = await program.at('unblocked', blockMs + 10_000);
      console.log('blocks:', JSON.stringify(done));
      // More events arrived than the queue holds: `resync` was emitted, and the rest was dropped.
      expect(done.resyncs).toEqual(['overflow']);
      expect(done.received).toBeLessThan(2500);
      // 160 MB were sent.
      expectNoLeak(done, 100);
      program.send('end');
      expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
    },
  );

  proven('a subscriber that is too slow for the server', { without: 'gaps' }, async (off) => {
    const limit = 'pubsub 1mb 512kb 1';
    await using server = await startRedis({ config: { 'client-output-buffer-limit': limit } });
    const program = start(server, 'follows', 1, off);
    await program.at('ready', 5000);
    const writer = await connect({ url: server.url });
    const state = { big: 'x'.repeat(20_000) };
    process.kill(program.pid, 'SIGSTOP');
    // Socket buffers absorb some data; the rest fills the server's buffer until the server
    // disconnects.
    await eventually(
      async () => {
        await writer.join({ roomId: 'r', userId: 'u', connId: 'c', state, snapshot: false });
        return (await pubsubClients(server)) === 0;
      },
      { timeoutMs: 10_000, intervalMs: 0 },
    );
    process.kill(program.pid, 'SIGCONT');
    const { resyncs } = await program.at('resync', 5000);
    expect(resyncs).toEqual(['reconnected']);
    program.send('end');
    expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
  });

  proven(
    'handlers that throw, reject, unsubscribe themselves and close',
    { without: 'guard' },
    async (off) => {
      await using server = await startRedis();
      const program = startFixture<Message>('faults/fixtures/lifecycle.mjs', {
        args: ['handlers', server.url],
        execArgv: off.includes('guard') ? ['--import', unguarded] : [],
      });
      onTestFinished(async () => {
        await program.kill();
      });
      const done = await program.message(({ at }) => at === 'closed', 5000);
      expect(done.seen).toEqual(['once', 'a', 'b', 'last']);
      expect(done.logged?.filter((line) => line.includes('threw Error: thrown'))).toHaveLength(3);
      expect(done.logged?.filter((line) => line.includes('rejected Error: rejected'))).toHaveLength(
        3,
      );
      expect(program.messages.map(({ at }) => at)).toEqual(['closed']);
      expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
    },
  );

  proven('workers of a cluster, one of them killed', { without: 'reaping' }, async (off) => {
    await using server = await startRedis();
    const program = start(server, 'cluster', 4, off);
    await program.at('joined', 15_000);
    const healthy = await connect({ url: server.url });
    expect(await healthy.fetchRoomSnapshot('r')).toHaveLength(4);
    program.send('kill');
    await program.at('killed', 5000);
    await eventually(async () => {
      expect(await (await server.client()).scard('prs:{room:r}:conns')).toBe(3);
    });
    program.send('end');
    const { codes } = await program.at('ended', 5000);
    expect(codes).toEqual([0, 0, 0]);
    expect(await server.dbsize()).toBe(0);
    expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
  });

  for (const panic of ['task-panic', 'call-panic'] as const) {
    const where = panic === 'task-panic' ? 'in a task' : 'in a function that JavaScript calls';
    // Catching a panic in a call is compiled in: its control is a core that does not panic.
    const without = panic === 'task-panic' ? 'panics' : 'panic';
    proven(`a panic ${where} becomes INTERNAL`, { without }, async (off) => {
      await using server = await startRedis();
      const uncaught = off.includes('panics') ? ['panics'] : [];
      const names = off.includes('panic') ? [] : [panic, ...uncaught];
      const program = start(server, 'panics', names.join(','), []);
      const { settled } = await program.at('settled', 5000);
      const codes = Object.entries(settled ?? {}).filter(([name]) => name !== 'metrics');
      for (const [name, code] of codes) {
        expect(code, name).toEqual(name === 'many' ? ['INTERNAL', 'INTERNAL'] : 'INTERNAL');
      }
      if (panic === 'call-panic') expect(settled?.metrics).toBe('INTERNAL');
      // The client continues to work.
      const { after } = await program.at('after', 5000);
      expect(after).toBe('ok');
      expect(await within(program.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
      expect(await (await server.client()).keys('prs:conn:*')).toEqual([]);
    });
  }
});

/** Removes the guard around handlers before a program starts. */
const unguarded = `data:text/javascript,${encodeURIComponent(`
  import { createRequire } from 'node:module';
  const { Handlers } = createRequire(${JSON.stringify(import.meta.url)})('../../dist/handlers.js');
  const all = new WeakMap();
  Handlers.prototype.add = function (handler) {
    const own = (event) => handler(event);
    all.set(this, [...(all.get(this) ?? []), own]);
    return () => all.set(this, all.get(this).filter((other) => other !== own));
  };
  Handlers.prototype.call = function (event) {
    for (const handler of all.get(this) ?? []) handler(event);
  };
`)}`;
