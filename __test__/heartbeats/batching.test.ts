// Batching of heartbeats (spec section 5).
import { describe, expect, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { createRandom } from '../support/random.js';
import { sharedDb, startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

function ids(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `c${i}`);
}

async function joinAll(client: Untyped, conns: string[]): Promise<void> {
  for (let at = 0; at < conns.length; at += 200) {
    const some = conns.slice(at, at + 200);
    await Promise.all(some.map((connId) => client.join({ ...IDS, connId, snapshot: false })));
  }
}

async function leaveAll(client: Untyped, conns: string[]): Promise<void> {
  await Promise.all(conns.map((connId) => client.leave(connId)));
}

describe('5.1: heartbeats that arrive while a batch is in flight form the next one', () => {
  test('one at a time: no timer, one batch for each', async () => {
    const client = await openClient((await sharedDb()).url);
    await client.join(IDS);
    const took: number[] = [];
    for (let i = 0; i < 100; i++) {
      const began = performance.now();
      await client.heartbeat({ connId: 'c' });
      took.push(performance.now() - began);
    }
    // A timer (50 ms in the reference) would delay all of them; a busy machine delays only some.
    expect(Math.min(...took)).toBeLessThan(10);
    expect(client.metrics().heartbeatBatches).toBe(100);
    await client.leave('c');
  });

  test('many at once: few batches, none larger than maxBatchSize (256)', async () => {
    const client = await openClient((await sharedDb()).url);
    const conns = ids(2000);
    await joinAll(client, conns);
    const results = await Promise.all(conns.map((connId) => client.heartbeat({ connId })));
    expect(results.every(({ changed }) => changed === false)).toBe(true);
    const { heartbeats, heartbeatBatches, heartbeatBatchSize } = client.metrics();
    expect(heartbeats).toBe(2000);
    expect(heartbeatBatches).toBeGreaterThanOrEqual(8);
    expect(heartbeatBatches).toBeLessThan(40);
    expect(heartbeatBatchSize.max).toBeLessThanOrEqual(256);
    await leaveAll(client, conns);
  });

  test('batchWindowMs: 50: heartbeats within 50 ms share a batch', async () => {
    const client = await openClient({ url: (await sharedDb()).url, batchWindowMs: 50 });
    const conns = ids(20);
    await joinAll(client, conns);
    const began = performance.now();
    const heartbeats: Promise<unknown>[] = [];
    for (const connId of conns) {
      heartbeats.push(client.heartbeat({ connId }));
      await new Promise(setImmediate);
    }
    const sent = performance.now() - began;
    await Promise.all(heartbeats);
    expect(performance.now() - began).toBeGreaterThanOrEqual(45);
    // One batch, or one per window if this thread was delayed for longer than the window.
    expect(client.metrics().heartbeatBatches).toBeLessThanOrEqual(1 + Math.ceil(sent / 50));
    await leaveAll(client, conns);
  });

  test('batchWindowMs: a full batch does not wait', async () => {
    const limits = { maxBatchSize: 10 };
    const client = await openClient({ url: (await sharedDb()).url, batchWindowMs: 20_000, limits });
    const conns = ids(10);
    await joinAll(client, conns);
    const heartbeats = Promise.all(conns.map((connId) => client.heartbeat({ connId })));
    await within(heartbeats, 5000, 'a full batch');
    await leaveAll(client, conns);
  });
});

describe('5.2: heartbeats of one connection in one batch are combined', () => {
  test('1000 patches: merged in the order of the calls, every Promise settles', async () => {
    const limits = { maxBatchSize: 1500 };
    const client = await openClient({ url: (await sharedDb()).url, batchWindowMs: 300, limits });
    await client.join({ ...IDS, state: { last: -1 } });
    const updates: Untyped[] = [];
    const stop = await client.subscribe((event) => {
      if (event.type === 'update') updates.push(event.state);
    });
    const heartbeats = Array.from({ length: 1000 }, (_, i) =>
      client.heartbeat({
        connId: 'c',
        // Each patch sets its own key, all set `last`, and every third removes the key before it.
        patchState: { [`k${i}`]: i, last: i, ...(i % 3 === 0 && { [`k${i - 1}`]: undefined }) },
      }),
    );
    const results = await Promise.all(heartbeats);
    expect(results.every(({ changed }) => changed)).toBe(true);
    const expected: Record<string, number> = { last: 999 };
    for (let i = 0; i < 1000; i++) if ((i + 1) % 3 !== 0) expected[`k${i}`] = i;
    const [member] = await client.fetchRoomSnapshot('r');
    expect(member?.state).toEqual(expected);
    expect(updates.at(-1)).toEqual(expected);
    // One batch is one write and one event; a slow machine may split it into a few.
    expect(updates.length).toBeLessThanOrEqual(5);
    await stop();
    await client.leave('c');
  });

  test('patches apply in call order across batches, with heartbeats in between', async () => {
    const client = await openClient((await sharedDb()).url);
    await client.join(IDS);
    const heartbeats: Promise<unknown>[] = [];
    for (let i = 0; i < 500; i++) {
      heartbeats.push(client.heartbeat({ connId: 'c', patchState: { last: i } }));
      heartbeats.push(client.heartbeat({ connId: 'c' }));
      if (i % 25 === 0) await new Promise(setImmediate);
    }
    await Promise.all(heartbeats);
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ last: 499 });
    await client.leave('c');
  });

  test('the highest epoch is used, in Redis and in every result', async () => {
    const { server, db, url } = await sharedDb();
    const client = await openClient({ url, batchWindowMs: 100 });
    const { epoch } = await client.join(IDS);
    const results = await Promise.all(
      [epoch, epoch + 7, undefined, epoch + 3].map((given) =>
        client.heartbeat({ connId: 'c', ...(given !== undefined && { epoch: given }) }),
      ),
    );
    expect(results.map((result) => result.epoch)).toEqual(Array(4).fill(epoch + 7));
    const admin = await server.client(db);
    expect(await admin.hget('prs:conn:c', 'epoch')).toBe(String(epoch + 7));
    const meta = await admin.hget('prs:{room:r}:conn_meta', 'c');
    expect(JSON.parse(meta ?? '')).toEqual({ userId: 'u', epoch: epoch + 7 });
    await client.leave('c');
  });
});

describe('5.3: an invalid item rejects only its own Promise', () => {
  test('every fifth of a batch: unknown, stale, oversized', async () => {
    const limits = { maxStateBytes: 1000, maxBatchSize: 400 };
    const client = await openClient({ url: (await sharedDb()).url, batchWindowMs: 300, limits });
    const conns = ids(300);
    await joinAll(client, conns);
    const heartbeats = conns.map((connId, i): Untyped => {
      if (i % 5 !== 0) return { connId, ...(i % 2 === 0 && { patchState: { i } }) };
      if (i % 3 === 0) return { connId: `unknown-${i}` };
      if (i % 3 === 1) return { connId, epoch: 5 };
      return { connId, patchState: { long: 'x'.repeat(1000) } };
    });
    const results = await Promise.allSettled(
      heartbeats.map((heartbeat) => client.heartbeat(heartbeat)),
    );
    const CODES = ['CONNECTION_NOT_FOUND', 'STALE_EPOCH', 'INVALID_ARGUMENT'];
    for (const [i, result] of results.entries()) {
      const code = result.status === 'rejected' ? result.reason.code : undefined;
      expect(code, `item ${i}`).toBe(i % 5 === 0 ? CODES[i % 3] : undefined);
    }
    expect(client.metrics().heartbeatsFailed).toBeGreaterThanOrEqual(40);
    // All were in one batch; a slow machine may split it into a few.
    expect(client.metrics().heartbeatBatches).toBeLessThanOrEqual(3);
    await leaveAll(client, conns);
  });

  test('in one batch for one connection', async () => {
    const limits = { maxStateBytes: 100 };
    const client = await openClient({ url: (await sharedDb()).url, batchWindowMs: 100, limits });
    await client.join({ ...IDS, state: { a: 'x'.repeat(60) } });
    const results = await Promise.allSettled(
      [{ b: 1 }, { c: 'x'.repeat(60) }, { d: 2 }].map((patchState) =>
        client.heartbeat({ connId: 'c', patchState }),
      ),
    );
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    const [member] = await client.fetchRoomSnapshot('r');
    expect(member?.state).toEqual({ a: 'x'.repeat(60), b: 1, d: 2 });
    await client.leave('c');
  });
});

describe('5.4: the queue is bounded', () => {
  test('above maxQueue, heartbeats reject at once with OVERLOADED; the others succeed', async () => {
    await using server = await startRedis();
    const limits = { maxQueue: 1000, commandTimeoutMs: 20_000 };
    const client = await openClient({ url: server.url, limits });
    const conns = ids(50);
    await joinAll(client, conns);
    server.pause();
    const heartbeats = Array.from({ length: 5000 }, (_, i) =>
      client.heartbeat({ connId: conns[i % conns.length] ?? '' }),
    );
    const settled = Promise.allSettled(heartbeats);
    // The refused ones depend on how fast the queue is drained in the meantime.
    const error = await within(
      new Promise<{ code: string; message: string }>((resolve) => {
        for (const heartbeat of heartbeats) heartbeat.catch(resolve);
      }),
      2000,
      'the refusal',
    );
    expect(error.code).toBe('OVERLOADED');
    expect(error.message).toContain('1000');
    expect(client.metrics().heartbeatQueue).toBeLessThanOrEqual(1000);
    server.resume();
    const results = await within(settled, 10_000, 'every Promise');
    const refused = results.filter((result) => result.status === 'rejected');
    expect(new Set(refused.map(({ reason }) => reason.code))).toEqual(new Set(['OVERLOADED']));
    // Heartbeats in flight when the queue filled up are not in the queue.
    expect(results.length - refused.length).toBeGreaterThanOrEqual(1000);
    expect(results.length - refused.length).toBeLessThan(3000);
    expect(client.metrics().overloaded).toBe(refused.length);
    // Later heartbeats are accepted again.
    await client.heartbeat({ connId: conns[0] ?? '' });
  });
});

describe('5.1, 3.3: rooms of a batch', () => {
  test.each(['v1', 'slotted'] as const)(
    'on %s: with one connection and with hundreds, each is refreshed and no other',
    async (layout) => {
      const { server, db, url } = await sharedDb();
      const sizes = [1, 300, 2, 257, 1, 256, 3, 255, 5, 1];
      // All of them in one batch, which is sent when it is full.
      const limits = { maxBatchSize: sizes.reduce((sum, size) => sum + size, 0) };
      const client: Untyped = await openClient({ url, layout, limits, batchWindowMs: 60_000 });
      const redis = await server.client(db);
      const conns = sizes.flatMap((size, room) =>
        Array.from({ length: size }, (_, i) => ({
          roomId: `room-${room}`,
          connId: `${room}/${i}`,
        })),
      );
      const hash = ({ roomId, connId }: (typeof conns)[number]) =>
        layout === 'v1' ? `prs:conn:${connId}` : `prs:{room:${roomId}}:conn:${connId}`;
      for (const conn of conns) await client.join({ ...conn, userId: 'u', snapshot: false });
      const scores = async () => {
        const all = new Map<string, number>();
        for (const room of sizes.keys()) {
          const list = await redis.zrange(
            `prs:{room:room-${room}}:last_seen`,
            '0',
            '-1',
            'WITHSCORES',
          );
          for (let i = 0; i < list.length; i += 2) {
            all.set(`room-${room} ${list[i]}`, Number(list[i + 1]));
          }
        }
        return all;
      };
      // Some connections are gone, but their rooms still contain them.
      const gone = new Set(conns.filter((_, i) => i % 7 === 0));
      await redis.del(...[...gone].map(hash));
      const before = await scores();
      expect(before.size).toBe(conns.length);
      const newest = Math.max(...before.values());
      await eventually(async () => {
        const [seconds = 0, micros = 0] = (await redis.time()).map(Number);
        return seconds * 1000 + Math.floor(micros / 1000) > newest;
      });
      const results = await client.heartbeatMany(
        createRandom()
          .shuffle(conns)
          .map(({ connId }) => ({ connId })),
      );
      expect(client.metrics().heartbeatBatches).toBe(1);
      const refused = results.filter((result: Untyped) => result.code === 'CONNECTION_NOT_FOUND');
      expect(refused).toHaveLength(gone.size);
      const after = await scores();
      expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
      for (const conn of conns) {
        const member = `${conn.roomId} ${conn.connId}`;
        const score = after.get(member);
        if (gone.has(conn)) {
          expect(score).toBe(before.get(member));
          continue;
        }
        expect(score).toBeGreaterThan(newest);
        expect(await redis.hget(hash(conn), 'last_seen_ms')).toBe(`${score}`);
      }
      redis.disconnect();
    },
  );
});

describe('5.5: heartbeatMany', () => {
  test('one result per item, in order, errors as values', async () => {
    const client: Untyped = await openClient((await sharedDb()).url);
    const conns = ids(3000);
    await joinAll(client, conns);
    const items = conns.map((connId, i) => ({
      connId: i % 5 === 0 ? `unknown-${i}` : connId,
      ...(i % 7 === 0 && { patchState: { i } }),
    }));
    const results = await client.heartbeatMany(items);
    expect(results).toHaveLength(3000);
    for (const [i, result] of results.entries()) {
      if (i % 5 === 0) {
        expect(result).toMatchObject({ name: 'RollcallError', code: 'CONNECTION_NOT_FOUND' });
        expect(result.message).toContain(`"unknown-${i}"`);
      } else {
        expect(result).toEqual({ changed: i % 7 === 0, epoch: expect.any(Number) });
      }
    }
    await leaveAll(client, conns);
  });

  test('ids of all lengths are passed in one call, unchanged', async () => {
    const client: Untyped = await openClient((await sharedDb()).url);
    const conns = ['a', 'ä', '日本', '😀', 'a\0b', '{x}', '*', ' ', '\u2028', 'é', 'e\u0301'];
    await joinAll(client, conns);
    const results = await client.heartbeatMany(conns.map((connId) => ({ connId })));
    expect(results.map((result: Untyped) => result.code ?? result.changed)).toEqual(
      conns.map(() => false),
    );
    await leaveAll(client, conns);
  });
});
