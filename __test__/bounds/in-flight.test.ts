// A client bounds its calls in flight in number and in bytes (spec 7.11): calls that have not
// settled, and answers that JavaScript has not taken yet.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { PresenceClient, RollcallError } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

type Client = PresenceClient<Untyped>;

const CODES = (results: PromiseSettledResult<unknown>[]) =>
  results.map((result) => (result.status === 'fulfilled' ? 'done' : result.reason.code));

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/** The memory of the process in bytes after garbage collection; a busy machine has more garbage. */
function memory(): number {
  collectGarbage();
  return process.memoryUsage.rss();
}

/** The largest growth of the process's memory while `work` runs, in bytes. */
async function growth(work: () => Promise<unknown>): Promise<number> {
  const before = memory();
  let grown = 0;
  const timer = setInterval(() => {
    grown = Math.max(grown, memory() - before);
  }, 5);
  await work();
  clearInterval(timer);
  return Math.max(grown, memory() - before);
}

describe('7.11 pending calls', () => {
  test('7.11 maxPendingCalls: above it, calls of every kind reject with OVERLOADED, except calls that release resources', async () => {
    const server = await startRedis();
    const limits = { maxPendingCalls: 10, commandTimeoutMs: 20_000 };
    const client = await openClient({ url: server.url, limits });
    const channel = { channelType: 't', channelName: 'n' };
    const lock = await client.locks.acquire('held', { ownerId: 'o', ttlMs: 30_000 });
    const unsubscribe = await client.subscribe(() => {});
    server.pause();
    const taken = Promise.allSettled(Array.from({ length: 10 }, () => client.getEpoch('c')));
    expect(client.metrics().pendingCalls).toBe(10);
    const refused: Record<string, () => Promise<unknown>> = {
      join: () => client.join({ roomId: 'r', userId: 'u', connId: 'c' }),
      leave: () => client.leave('c'),
      epoch: () => client.getEpoch('c'),
      snapshot: () => client.fetchRoomSnapshot('r'),
      user: () => client.getUserPresence('u'),
      subscribe: () => client.subscribe(() => {}, { roomId: 'other' }),
      get: () => client.metadata.get(channel),
      set: () => client.metadata.set(channel),
      acquire: () => client.locks.acquire('l', { ownerId: 'o', waitMs: 60_000 }),
      inspect: () => client.locks.inspect('l'),
      extend: () => lock.extend(),
    };
    for (const [name, call] of Object.entries(refused)) {
      const error = await rejection(call);
      expect([error.code, error.outcome], name).toEqual(['OVERLOADED', undefined]);
      for (const part of ['10 calls', 'the limit is 10', 'limits.maxPendingCalls', 'wait']) {
        expect(error.message, name).toContain(part);
      }
    }
    expect(client.metrics().overloaded).toBe(Object.keys(refused).length);
    // These calls are never refused: their callers do not retry them, so a refusal would leak the
    // resource.
    const givenBack = Promise.all([lock.release(), unsubscribe()]);
    const beside = rejection(() => client.heartbeat({ connId: 'c' }));
    server.resume();
    expect(CODES(await taken)).toEqual(Array.from({ length: 10 }, () => 'done'));
    await givenBack;
    expect(await beside).toMatchObject({ code: 'CONNECTION_NOT_FOUND' });
    expect(await client.locks.inspect('held')).toBeNull();
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, requestBytes: 0, answerBytes: 0 });
  });

  test('7.11 maxInFlightBytes: when requests exceed half of it, calls reject with OVERLOADED', async () => {
    const server = await startRedis();
    const limits = { maxInFlightBytes: 200_000, commandTimeoutMs: 20_000 };
    const client = await openClient({ url: server.url, limits });
    const channel = { channelType: 't', channelName: 'n' };
    const text = 'x'.repeat(20_000);
    const join = (i: number) =>
      client.join({ roomId: 'r', userId: 'u', connId: `c${i}`, state: { text }, snapshot: false });
    server.pause();
    const joins = Promise.allSettled(Array.from({ length: 10 }, (_, i) => join(i)));
    const { requestBytes } = client.metrics();
    expect(requestBytes).toBeGreaterThan(4 * text.length);
    expect(requestBytes).toBeLessThanOrEqual(100_000);
    const error = await rejection(() =>
      client.metadata.set({ ...channel, data: [{ key: 'k', value: text }] }),
    );
    expect(error.code).toBe('OVERLOADED');
    for (const part of [`${requestBytes} bytes`, '100000 bytes', 'limits.maxInFlightBytes', 'wait'])
      expect(error.message).toContain(part);
    // A small request is still accepted.
    const small = client.getEpoch('c');
    server.resume();
    const codes = CODES(await joins);
    expect(codes.filter((code) => code === 'done')).toHaveLength(4);
    expect(codes.filter((code) => code === 'OVERLOADED')).toHaveLength(6);
    expect(await small).toBeNull();
    // A single request is accepted, independent of its size.
    await client.metadata.set({ ...channel, data: [{ key: 'k', value: 'x'.repeat(300_000) }] });
  });
});

describe.each(['redis', 'memory'])('7.11 waiting answers, on %s', (store) => {
  async function open(options: object = {}): Promise<Client> {
    const server = store === 'redis' ? await startRedis() : undefined;
    return openClient({ ...(server && { url: server.url }), ...options });
  }

  test('7.11 120 records of 900 KB read at once: each is correct, and few are in memory at the same time', async () => {
    const client = await open();
    const channel = (i: number) => ({ channelType: 't', channelName: `n${i}` });
    const value = 'x'.repeat(900_000);
    const all = Array.from({ length: 120 }, (_, i) => i);
    for (const i of all) {
      await client.metadata.set({ ...channel(i), data: [{ key: `k${i}`, value }] });
    }
    const summaries = new Set<string>();
    let most = 0;
    const grown = await growth(() =>
      Promise.all(
        all.map(async (i) => {
          const { metadata } = await client.metadata.get(channel(i));
          summaries.add(`${metadata[`k${i}`]?.value.length}`);
          most = Math.max(most, client.metrics().answerBytes);
        }),
      ),
    );
    expect([...summaries]).toEqual(['900000']);
    expect(most).toBeGreaterThan(1_000_000);
    expect(most).toBeLessThanOrEqual(64 * 1024 * 1024);
    expect(grown).toBeLessThan(120 * 1024 * 1024);
    expect(client.metrics()).toMatchObject({ answerBytes: 0, pendingCalls: 0, overloaded: 0 });
  });

  test('7.11 40 snapshots of a room of 12 MB at once: each is correct, and few are in memory at the same time', async () => {
    const client = await open({ limits: { commandTimeoutMs: 20_000 } });
    const text = 'x'.repeat(300_000);
    const members = Array.from({ length: 40 }, (_, i) => `c${i}`);
    for (const connId of members) {
      await client.join({ roomId: 'r', userId: connId, connId, state: { text }, snapshot: false });
    }
    const snapshot = async () => {
      const entries = await client.fetchRoomSnapshot('r');
      return `${entries.length} ${entries.every(({ state }) => state?.text.length === 300_000)}`;
    };
    expect(await snapshot()).toBe('40 true');
    const summaries = new Set<string>();
    let most = 0;
    const grown = await growth(() =>
      Promise.all(
        Array.from({ length: 40 }, async () => {
          summaries.add(await snapshot());
          most = Math.max(most, client.metrics().answerBytes);
        }),
      ),
    );
    expect([...summaries]).toEqual(['40 true']);
    expect(most).toBeLessThanOrEqual(64 * 1024 * 1024);
    // All answers together have 480 MB. When all were read at once, the process grew by 560 to 810
    // MB.
    expect(grown).toBeLessThan(200 * 1024 * 1024);
    expect(client.metrics()).toMatchObject({ answerBytes: 0, pendingCalls: 0, overloaded: 0 });
  });

  test('7.11 a join with a snapshot, and users, arrive in pieces, complete and in order', async () => {
    const client = await open({ limits: { maxInFlightBytes: 1_000_000 } });
    const text = 'x'.repeat(200_000);
    const ids = Array.from({ length: 30 }, (_, i) => `c${i}`);
    for (const connId of ids) {
      await client.join({ roomId: 'r', userId: 'u', connId, state: { connId, text } });
    }
    const { snapshot, epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'last' });
    expect(epoch).toBeGreaterThan(0);
    const whole = [...ids, 'last'].sort();
    expect(snapshot.map(({ connId }) => connId).sort()).toEqual(whole);
    const { connections, rooms } = await client.getUserPresence('u');
    expect(rooms).toEqual(['r']);
    expect(connections.map(({ connId }) => connId).sort()).toEqual(whole);
    for (const { connId, state } of connections) {
      if (connId !== 'last') expect(state).toEqual({ connId, text });
    }
    expect(await client.getUserPresence('nobody')).toEqual({
      userId: 'nobody',
      rooms: [],
      connections: [],
    });
  });

  test('7.11 when answers fill the limit while JavaScript is busy, calls wait and are answered later', async () => {
    const client = await open({ limits: { maxInFlightBytes: 200_000 } });
    const channel = { channelType: 't', channelName: 'n' };
    const value = 'x'.repeat(100_000);
    await client.metadata.set({ ...channel, data: [{ key: 'k', value }] });
    const updates = Array.from({ length: 50 }, (_, i) =>
      client.metadata.update({ ...channel, data: [{ key: 'k', value: `${i}${value}` }] }).then(
        ({ majorRevision }) => majorRevision,
        (error: RollcallError) => error.code,
      ),
    );
    const until = performance.now() + 300;
    while (performance.now() < until);
    const results = await Promise.all(updates);
    const done = results.filter((result) => typeof result === 'number');
    expect(new Set(results.filter((result) => typeof result === 'string'))).toEqual(
      new Set(done.length === 50 ? [] : ['OVERLOADED']),
    );
    expect(done.length).toBeGreaterThan(0);
    expect(done).toEqual(done.map((_, i) => i + 2));
    expect((await client.metadata.get(channel)).majorRevision).toBe(done.length + 1);
  });

  test('an answer arrives while more heartbeats settle than fit into one drain', async () => {
    const client = await open();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    let [settled, goesOn] = [0, true];
    const heartbeat = async (): Promise<void> => {
      while (goesOn) {
        await client.heartbeat({ connId: 'c' });
        settled++;
      }
    };
    const heartbeats = Array.from({ length: 8_000 }, heartbeat);
    await eventually(() => settled > 16_000);
    let answeredAt = 0;
    const answer = client.getEpoch('c').then(() => {
      answeredAt = settled;
    });
    const askedAt = settled;
    await Promise.race([answer, eventually(() => settled > askedAt + 100_000)]);
    goesOn = false;
    await Promise.all([answer, ...heartbeats]);
    // The heartbeats that were in flight before the answer, and some more.
    expect(answeredAt - askedAt).toBeLessThan(50_000);
  });
});

test('11.3 close settles all earlier calls, even if their answers need several drains', async () => {
  const client = await openClient({});
  const channel = { channelType: 't', channelName: 'n' };
  await client.metadata.set({ ...channel, data: [{ key: 'k', value: 'x'.repeat(900_000) }] });
  const calls = Promise.allSettled(Array.from({ length: 50 }, () => client.metadata.get(channel)));
  await client.close();
  expect(new Set(CODES(await calls))).toEqual(new Set(['done']));
});
