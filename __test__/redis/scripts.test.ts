// The commands of the Lua scripts, from MONITOR: keys only from KEYS (2.1), the time of Redis
// (3.1), no command whose cost grows with the room (3.6), and the event in the same step (3.10).
import { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { expired, LONG_TTL_MS, SHORT_TTL_MS, useStore } from '../conformance/stores.js';
import { eventually } from '../support/wait.js';

/** A script call: its keys and arguments, and the commands of the script. */
interface Call {
  keys: string[];
  args: string[];
  ran: string[][];
}

describe('scripts', () => {
  const store = useStore('redis');

  /** The script calls of `act`. */
  async function callsOf(act: () => Promise<unknown>): Promise<Call[]> {
    const { server, db } = store.redis();
    const marker = await server.client(db);
    const monitor = await new Redis({ path: server.socketPath }).monitor();
    const lines: { args: string[]; source: string }[] = [];
    monitor.on('monitor', (_time: string, args: string[], source: string, of: string) => {
      if (of === String(db)) lines.push({ args, source });
    });
    const passed = async (mark: string) => {
      await marker.echo(mark);
      await eventually(() => lines.some(({ args }) => args[1] === mark), { intervalMs: 1 });
    };
    try {
      await passed('begin');
      await act();
      await passed('end');
    } finally {
      monitor.disconnect();
      marker.disconnect();
    }
    const calls: Call[] = [];
    for (const { args, source } of lines) {
      const name = args[0]?.toLowerCase();
      if (name === 'evalsha' || name === 'eval') {
        const count = Number(args[2]);
        calls.push({ keys: args.slice(3, 3 + count), args: args.slice(3 + count), ran: [] });
      } else if (source === 'lua') {
        calls.at(-1)?.ran.push(args);
      }
    }
    return calls;
  }

  /** The names of keys and channels in a command of a script. */
  function keysIn([name = '', ...args]: string[]): string[] {
    switch (name.toLowerCase()) {
      case 'time':
        return [];
      case 'sintercard':
        return args.slice(1, 1 + Number(args[0]));
      case 'sinter':
      case 'del':
      case 'exists':
        return args;
      default:
        return args.slice(0, 1);
    }
  }

  /** Uses all operations of presence, including moves, expiries and refusals. */
  async function everything(): Promise<void> {
    const [one, two] = [await store.connect(), await store.connect()];
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const { epoch } = await one.join({ roomId: 'r1', userId: 'u1', connId: 'c', state: { a: 1 } });
    await one.join({ roomId: 'r1', userId: 'u1', connId: 'd' });
    await one.heartbeatMany([{ connId: 'c' }, { connId: 'd' }]);
    await two.heartbeat({ connId: 'c', epoch: epoch + 2, patchState: { b: 2 } });
    await one.heartbeat({ connId: 'c', epoch }).catch(() => {});
    await two.join({ roomId: 'r2', userId: 'u2', connId: 'c' });
    await two.leave('c');
    await one.leave('d');
    for (const roomId of ['r3', 'r4']) await short.join({ roomId, userId: 'u3', connId: roomId });
    for (const roomId of ['r3', 'r4']) await expired(short, roomId, roomId);
    await short.join({ roomId: 'r3', userId: 'u4', connId: 'r3' });
    await expired(short, 'r3', 'r3');
    await eventually(async () => {
      await short.reapOnce();
      expect(await store.redis().server.dbsize(store.redis().db)).toBe(0);
    });
  }

  test('2.1 every key that a script uses is in its KEYS', async () => {
    const calls = await callsOf(everything);
    const touched = new Set<string>();
    for (const { keys, ran } of calls) {
      for (const command of ran) {
        for (const key of keysIn(command)) {
          touched.add(key);
          expect(keys, command.join(' ')).toContain(key);
        }
      }
    }
    for (const key of ['prs:conn:c', 'prs:{room:r1}:events', 'prs:user:u4:rooms']) {
      expect([...touched]).toContain(key);
    }
  });

  test('3.1 the time is that of Redis: no node sends one, and every script reads it', async () => {
    const known = new Set<string>();
    const client = await store.connect();
    const { server, db } = store.redis();
    const redis = await server.client(db);
    const clock = async () => {
      const [seconds, micros] = (await redis.time()).map(Number) as [number, number];
      return seconds * 1000 + Math.floor(micros / 1000);
    };
    const calls = await callsOf(async () => {
      const before = await clock();
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(epoch).toBeGreaterThanOrEqual(before);
      expect(epoch).toBeLessThanOrEqual(await clock());
      // A node sends an epoch, which contains a time, only as a fence.
      known.add(String(epoch)).add(String(epoch + 1));
      await client.heartbeat({ connId: 'c', epoch });
      await client.heartbeat({ connId: 'c', patchState: { a: 1 } });
      await client.join({ roomId: 'r2', userId: 'u', connId: 'c' }).then((moved) => {
        known.add(String(moved.epoch)).add(String(moved.epoch + 1));
      });
      await client.leave('c');
      await client.reapOnce();
    });
    expect(calls.length).toBeGreaterThanOrEqual(5);
    const now = Date.now();
    for (const { args, ran } of calls) {
      expect(ran.map(([name]) => name?.toLowerCase())).toContain('time');
      // In milliseconds or seconds, within a day of now.
      const times = args
        .flatMap((arg) => arg.split(/\D+/))
        .filter((text) => !known.has(text))
        .map(Number)
        .filter((n) => [n, n * 1000].some((ms) => Math.abs(ms - now) < 24 * 3600_000));
      expect(times, args.join(' ')).toEqual([]);
    }
    redis.disconnect();
  });

  test('3.6 leave costs the same in a room of 2000 as in a room of 2', async () => {
    const client = await store.connect();
    const fill = (roomId: string, count: number) =>
      Promise.all(
        Array.from({ length: count }, (_, i) =>
          client.join({
            roomId,
            userId: `${roomId} ${i}`,
            connId: `${roomId} ${i}`,
            snapshot: false,
          }),
        ),
      );
    await fill('small', 2);
    await fill('large', 2_000);
    const [small, large] = [
      await callsOf(() => client.leave('small 1')),
      await callsOf(() => client.leave('large 1')),
    ];
    const shape = (calls: Call[]) =>
      calls.map(({ ran }) => ran.map(([name, ...rest]) => [name?.toLowerCase(), rest.length]));
    // The same commands, with the same number of arguments,
    expect(shape(large)).toEqual(shape(small));
    expect(large.length).toBe(1);
    // and no command that reads a room's whole set, hash or sorted set.
    const constant = new Set(
      'time hmget hget del set srem zrem hdel exists sintercard publish'.split(' '),
    );
    for (const [name = ''] of large[0]?.ran ?? []) expect(constant).toContain(name.toLowerCase());
    // SINTERCARD iterates over the smaller of two sets, which is the user's set.
    const cards = (large[0]?.ran ?? []).filter(([name]) => name?.toLowerCase() === 'sintercard');
    for (const card of cards) expect(card).toContain('prs:user:large 1:conns');
  });

  test('3.10 a change and its event are sent by the same script', async () => {
    const writes = /^(hset|hdel|sadd|srem|zrem|del|set)$/;
    const calls = await callsOf(everything);
    let published = 0;
    for (const { ran } of calls) {
      const names = ran.map(([name]) => name?.toLowerCase() ?? '');
      const joins = ran.filter(([name, key]) => name === 'SADD' && /\}:conns$/.test(key ?? ''));
      const leaves = ran.filter(([name, key]) => name === 'SREM' && /\}:conns$/.test(key ?? ''));
      const patches = ran.filter(
        ([name, key, ...fields]) =>
          name === 'HSET' &&
          /^prs:conn:/.test(key ?? '') &&
          !fields.includes('conn_id') &&
          fields.includes('state'),
      );
      const events = names.filter((name) => name === 'publish').length;
      expect(events).toBe(joins.length + leaves.length + patches.length);
      if (events > 0) expect(names.some((name) => writes.test(name))).toBe(true);
      published += events;
    }
    // 5 joins, 1 update, and a leave for each join.
    expect(published).toBe(6 + 1 + 6);
  });

  test('3.5 the state is sent to scripts only as text', async () => {
    const client = await store.connect({ ttlMs: LONG_TTL_MS });
    const state = { big: 2 ** 53 - 1, list: [], f: 1e308, z: 1, a: null };
    const calls = await callsOf(async () => {
      await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });
      await client.heartbeat({ connId: 'c', patchState: { more: [] } });
    });
    const stored = JSON.stringify({ ...state, more: [] });
    expect(calls.at(-1)?.args).toContain(stored);
    expect(calls.at(-1)?.ran.some((command) => command.includes(stored))).toBe(true);
  });
});
