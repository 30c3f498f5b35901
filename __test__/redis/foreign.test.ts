// Legacy nodes together with Rollcall nodes: connections that only legacy nodes wrote (3.2, 3.3, 3.6, 3.8,
// 3.9, 6.5), and their events (section 4).
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import {
  brief,
  byConn,
  expired,
  failure,
  record,
  SHORT_TTL_MS,
  useIoredis,
  useStore,
} from '../conformance/stores.js';
import { eventually } from '../support/wait.js';
import { foreignJoin, foreignLeave } from './foreign.js';
import { checkIndices, readIndices } from './indices.js';

describe('connections of legacy nodes', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });
  const c = { roomId: 'r', userId: 'u', connId: 'c' };

  test('3.8 are in snapshots', async () => {
    const client = await store.connect();
    const state = { list: [], n: 2 ** 53 - 1 };
    const epoch = await foreignJoin(redis, { ...c, state, lastSeenMs: 1_700_000_000_000 });
    const entry = { ...c, state, lastSeenMs: 1_700_000_000_000, epoch };
    expect(await client.fetchRoomSnapshot('r')).toStrictEqual([entry]);
    const { snapshot } = await client.join({ roomId: 'r', userId: 'v', connId: 'mine' });
    expect(byConn(snapshot)[0]).toStrictEqual(entry);
    await client.leave('c');
  });

  test('3.8 a state that is not a JSON object is returned as null, and other invalid data have no effect', async () => {
    const client = await store.connect();
    await foreignJoin(redis, { ...c, connId: 'good', state: { a: 1 } });
    for (const [connId, state] of [
      ['text', 'oops'],
      ['array', '[1]'],
      ['null', 'null'],
      ['cut', '{"a":'],
      ['bytes', Buffer.from([0x7b, 0xff, 0x7d])],
    ] as const) {
      await foreignJoin(redis, { ...c, connId });
      await redis.hset(`prs:conn:${connId}`, 'state', state);
    }
    // A set entry without a hash, one with a key of another type, and one with an incomplete hash.
    await redis.sadd('prs:{room:r}:conns', 'nohash', 'list', 'half');
    await redis.rpush('prs:conn:list', 'x');
    await redis.hset('prs:conn:half', 'user_id', 'u');
    const found = byConn(await client.fetchRoomSnapshot('r'));
    expect(found.map((entry) => [entry.connId, entry.state])).toEqual([
      ['array', null],
      ['bytes', null],
      ['cut', null],
      ['good', { a: 1 }],
      ['null', null],
      ['text', null],
    ]);
    // A patch repairs it.
    await client.heartbeat({ connId: 'text', patchState: { b: 2 } });
    expect(JSON.parse((await redis.hget('prs:conn:text', 'state')) ?? '')).toEqual({ b: 2 });
    await redis.flushdb();
  });

  test('3.8 times and epochs of legacy nodes are returned unchanged, in any range', async () => {
    const client = await store.connect();
    const expected = [];
    const numbers = [1_700_000_000_000, 0, 1, 2 ** 53 - 1, 2 ** 53, 1_800_000_000_001];
    for (const [i, lastSeenMs] of numbers.entries()) {
      const conn = { roomId: 'r', userId: `u${i % 2}`, connId: `c${i}`, lastSeenMs };
      const epoch = numbers.at(-1 - i) as number;
      await foreignJoin(redis, { ...conn, epoch });
      expected.push({ ...conn, state: {}, epoch });
      expect(byConn(await client.fetchRoomSnapshot('r'))).toStrictEqual(byConn(expected));
    }
    // So large that the difference is not an exact number.
    for (const entry of expected) {
      await redis.hset(`prs:conn:${entry.connId}`, 'last_seen_ms', `${2n ** 60n}`);
      entry.lastSeenMs = 2 ** 60;
    }
    expect(byConn(await client.fetchRoomSnapshot('r'))).toStrictEqual(byConn(expected));
    await redis.flushdb();
  });

  test('3.8, 9.2 compressed states among others, which this client would not write', async () => {
    const packer = await store.connect({ stateCompression: { thresholdBytes: 10, codec: 'zstd' } });
    const client = await store.connect();
    const packed = { text: 'a'.repeat(500) };
    await foreignJoin(redis, { ...c, state: { plain: 1 } });
    await packer.join({ ...c, connId: 'packed', state: packed });
    // On the first read it detects compressed states, on the second it expects them.
    for (let i = 0; i < 2; i++) {
      const found = byConn(await client.fetchRoomSnapshot('r'));
      expect(found.map(({ state }) => state)).toStrictEqual([{ plain: 1 }, packed]);
    }
    await packer.leave('packed');
    await redis.flushdb();
  });

  test('3.9 are in user presence without prs:user:<id>:rooms', async () => {
    const client = await store.connect();
    const epochs = [
      await foreignJoin(redis, { ...c, state: { a: 1 }, lastSeenMs: 1_700_000_000_000 }),
      await foreignJoin(redis, { ...c, connId: 'd', roomId: 'r2', lastSeenMs: 1_700_000_000_001 }),
    ];
    await client.join({ ...c, connId: 'mine', roomId: 'r3' });
    expect(await redis.smembers('prs:user:u:rooms')).toEqual(['r3']);
    const found = await client.getUserPresence('u');
    expect(found.rooms).toEqual(['r', 'r2', 'r3']);
    expect(byConn(found.connections)).toMatchObject([
      { ...c, state: { a: 1 }, lastSeenMs: 1_700_000_000_000, epoch: epochs[0] },
      { ...c, connId: 'd', roomId: 'r2', state: {}, epoch: epochs[1] },
      { connId: 'mine', roomId: 'r3' },
    ]);
    for (const connId of ['c', 'd']) await client.leave(connId);
    expect((await client.getUserPresence('u')).rooms).toEqual(['r3']);
  });

  test('3.3 accept heartbeats: without epoch, with their epoch, lower, higher; and patches', async () => {
    const client = await store.connect();
    const epoch = await foreignJoin(redis, { ...c, state: { a: 1 }, ttlMs: 5_000 });
    expect(await client.heartbeat({ connId: 'c' })).toStrictEqual({ changed: false, epoch });
    expect(await redis.pttl('prs:conn:c')).toBeGreaterThan(5_000);
    expect(await client.heartbeat({ connId: 'c', epoch })).toStrictEqual({ changed: false, epoch });
    await expect(client.heartbeat({ connId: 'c', epoch: epoch - 1 })).rejects.toEqual(
      failure('STALE_EPOCH'),
    );
    const patch = { connId: 'c', epoch: epoch + 4, patchState: { b: null } };
    expect(await client.heartbeat(patch)).toStrictEqual({ changed: true, epoch: epoch + 4 });
    expect(await redis.hget('prs:conn:c', 'state')).toBe('{"a":1,"b":null}');
    expect(await redis.hget('prs:{room:r}:conn_meta', 'c')).toBe(
      JSON.stringify({ userId: 'u', epoch: epoch + 4 }),
    );
    await client.leave('c');
  });

  test('3.4 a state that another node has changed in the meantime is merged, not overwritten', async () => {
    const client = await store.connect();
    await client.join({ ...c, state: { ours: 0, theirs: 0 } });
    for (let i = 1; i <= 20; i++) {
      await redis.hset('prs:conn:c', 'state', JSON.stringify({ ours: i - 1, theirs: i }));
      await client.heartbeat({ connId: 'c', patchState: { ours: i } });
      expect(JSON.parse((await redis.hget('prs:conn:c', 'state')) ?? '')).toEqual({
        ours: i,
        theirs: i,
      });
    }
  });

  test('3.6 leave by a call of Rollcall, and leave no keys', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    const epoch = await foreignJoin(redis, c);
    expect(await client.leave('c')).toStrictEqual({ roomId: 'r', userId: 'u' });
    expect((await recorder.settled()).at(-1)).toMatchObject({
      type: 'leave',
      epoch,
      reason: 'left',
    });
    expect(await redis.keys('*')).toEqual([]);
  });

  for (const [what, to] of [
    ['another room', { roomId: 'r2', userId: 'u' }],
    ['another user', { roomId: 'r', userId: 'u2' }],
    ['another room and user', { roomId: 'r2', userId: 'u2' }],
  ] as const) {
    test(`3.2 move to ${what} by a join of Rollcall`, async () => {
      const client = await store.connect();
      const recorder = await record(client);
      const epoch = await foreignJoin(redis, { ...c, epoch: Date.now() + 1_000_000 });
      const moved = await client.join({ ...to, connId: 'c' });
      expect(moved.epoch).toBe(epoch + 1);
      const [, leave, join] = await recorder.settled();
      expect(leave).toMatchObject({ type: 'leave', ...c, state: null, epoch, reason: 'replaced' });
      expect(join).toMatchObject({ type: 'join', ...to, epoch: epoch + 1 });
      expect(checkIndices(await readIndices(redis))).toEqual([`${to.roomId} c ${to.userId}`]);
    });
  }

  test('3.1 a rejoin by Rollcall in the same place gets a higher epoch', async () => {
    const client = await store.connect();
    const epoch = await foreignJoin(redis, { ...c, epoch: Date.now() + 1_000_000 });
    expect((await client.join(c)).epoch).toBe(epoch + 1);
    checkIndices(await readIndices(redis));
  });

  test('6.5 are reaped, in rooms that only legacy nodes wrote', async () => {
    const client = await store.connect({ ttlMs: 50 });
    const recorder = await record(await store.connect());
    const epochs = new Map<string, number>();
    for (let i = 0; i < 30; i++) {
      const conn = { roomId: `r${i % 6}`, userId: `u${i % 4}`, connId: `c${i}`, ttlMs: 1 };
      epochs.set(conn.connId, await foreignJoin(redis, conn));
    }
    const alive = { roomId: 'r0', userId: 'u0', connId: 'alive' };
    await foreignJoin(redis, alive);
    await eventually(async () => {
      await client.reapOnce();
      expect(await redis.scard('prs:{room:r0}:conns')).toBe(1);
      expect(await redis.scard('prs:active_rooms')).toBe(1);
    });
    expect((await client.fetchRoomSnapshot('r0')).map((entry) => entry.connId)).toEqual(['alive']);
    const left = (await recorder.settled()).filter((event) => event.type === 'leave');
    expect(new Map(left.map((event) => [event.connId, event.epoch]))).toEqual(epochs);
    expect(left.length).toBe(30);
    expect(left.every((event) => event.type === 'leave' && event.reason === 'timeout')).toBe(true);
    await client.leave('alive');
  });

  test('6.5 are reaped by a running reaper too', async () => {
    const client = await store.connect({ ttlMs: 50, sweepIntervalMs: 50, fallbackSweepMs: 100 });
    const recorder = await record(client);
    await client.startReaper();
    await foreignJoin(redis, { ...c, ttlMs: 1 });
    await eventually(() => {
      expect(recorder.events.map(brief)).toEqual(['join c r u', 'leave c r u timeout']);
    });
  });

  // The index then has as many rooms as are active, so a comparison of sizes shows no difference.
  test('6.5 are reaped, even if a legacy node ended another room at the same moment', async () => {
    const client = await store.connect({ ttlMs: 50, fallbackSweepMs: 50 });
    // A Rollcall connection that a legacy node has removed: the due index still contains its room.
    await client.join({ ...c, roomId: 'ended', connId: 'gone' });
    await foreignLeave(redis, { ...c, roomId: 'ended', connId: 'gone' });
    await foreignJoin(redis, { ...c, ttlMs: 1, lastSeenMs: Date.now() - 1_000 });
    await eventually(async () => (await redis.exists('prs:conn:c')) === 0, { intervalMs: 1 });
    await eventually(async () => {
      await client.reapOnce();
      expect(client.metrics().expired).toBe(1);
      // A known limit: a legacy node that removes a Rollcall connection does not know this key.
      expect(await redis.keys('*')).toEqual(['prs:user:u:rooms']);
    });
    await redis.del('prs:user:u:rooms');
  });

  test('6.1 with a longer TTL than this client’s, they live for that TTL', async () => {
    const client = await store.connect({ ttlMs: SHORT_TTL_MS });
    await foreignJoin(redis, { ...c, lastSeenMs: Date.now() - 5_000 });
    for (let i = 0; i < 3; i++) expect((await client.reapOnce()).expired).toBe(0);
    expect((await client.fetchRoomSnapshot('r')).length).toBe(1);
    expect(await redis.pttl('prs:conn:c')).toBeGreaterThan(60_000);
    await client.leave('c');
  });

  test('6.5 a room without connections is removed from active_rooms', async () => {
    const client = await store.connect();
    await redis.sadd('prs:active_rooms', 'empty');
    await client.reapOnce();
    expect(await redis.exists('prs:active_rooms')).toBe(0);
  });

  test('6.1 connections with an invalid entry in conn_meta are removed, too', async () => {
    const client = await store.connect({ ttlMs: SHORT_TTL_MS });
    for (const [connId, meta] of [
      ['missing', undefined],
      ['broken', '{"userId":'],
      ['other', '"text"'],
    ] as const) {
      await foreignJoin(redis, { ...c, connId, ttlMs: 1 });
      if (meta === undefined) await redis.hdel('prs:{room:r}:conn_meta', connId);
      else await redis.hset('prs:{room:r}:conn_meta', connId, meta);
      await expired(client, 'r', connId);
    }
    await eventually(async () => {
      await client.reapOnce();
      expect(await redis.exists('prs:{room:r}:conns', 'prs:{room:r}:last_seen')).toBe(0);
    });
    // Their users are unknown.
    await redis.del('prs:user:u:conns', 'prs:{room:r}:members');
  });

  test('4 their events are received unchanged, without a reason', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    const epoch = await foreignJoin(redis, { ...c, state: { a: [] } });
    await foreignLeave(redis, { ...c, epoch });
    await eventually(() => expect(recorder.events.length).toBe(2));
    const ts = expect.any(Number);
    expect(recorder.events).toStrictEqual([
      { type: 'join', ...c, state: { a: [] }, ts, epoch },
      { type: 'leave', ...c, state: null, ts, epoch },
    ]);
  });
});
