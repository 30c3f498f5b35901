// Spec section 2: the keys in Redis, by exact names, types and fields, as legacy nodes read them.
// redis/foreign.test.ts tests data of legacy nodes.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { expired, SHORT_TTL_MS, useIoredis, useStore } from '../conformance/stores.js';
import { eventually } from '../support/wait.js';
import { checkIndices, readIndices } from './indices.js';

describe('2 keys', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  test('2 a join writes every key of the table', async () => {
    const client = await store.connect({ ttlMs: 60_000 });
    const state = { mic: true, list: [] };
    const { epoch, snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });
    const seen = String(snapshot[0]?.lastSeenMs);

    expect(await redis.hgetall('prs:conn:c')).toEqual({
      conn_id: 'c',
      user_id: 'u',
      room_id: 'r',
      last_seen_ms: seen,
      epoch: String(epoch),
      state: JSON.stringify(state),
    });
    const ttl = await redis.pttl('prs:conn:c');
    expect(ttl).toBeGreaterThan(30_000);
    expect(ttl).toBeLessThanOrEqual(60_000);
    expect(await redis.smembers('prs:{room:r}:conns')).toEqual(['c']);
    expect(await redis.smembers('prs:{room:r}:members')).toEqual(['u']);
    expect(await redis.zrange('prs:{room:r}:last_seen', '0', '-1', 'WITHSCORES')).toEqual([
      'c',
      seen,
    ]);
    expect(await redis.hgetall('prs:{room:r}:conn_meta')).toEqual({
      c: JSON.stringify({ userId: 'u', epoch }),
    });
    expect(await redis.smembers('prs:user:u:conns')).toEqual(['c']);
    expect(await redis.smembers('prs:user:u:rooms')).toEqual(['r']);
    expect(await redis.smembers('prs:active_rooms')).toEqual(['r']);

    // No other keys, except Rollcall's due index, which also starts with `prs:`.
    const others = (await redis.keys('*')).filter(
      (key) => !/^prs:(conn:c|\{room:r\}:\w+|user:u:(conns|rooms)|active_rooms)$/.test(key),
    );
    expect(others.every((key) => /^prs:due:\d+$/.test(key))).toBe(true);
    checkIndices(await readIndices(redis));
  });

  test('2 a heartbeat updates the hash and last_seen together, and renews the TTL', async () => {
    const client = await store.connect({ ttlMs: 60_000 });
    const { epoch, snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await redis.pexpire('prs:conn:c', 5_000);
    await eventually(async () => {
      await client.heartbeat({ connId: 'c', epoch });
      const seen = Number(await redis.hget('prs:conn:c', 'last_seen_ms'));
      expect(seen).toBeGreaterThan(snapshot[0]?.lastSeenMs ?? 0);
    });
    expect(await redis.pttl('prs:conn:c')).toBeGreaterThan(30_000);
    checkIndices(await readIndices(redis));
  });

  test('2 a patch replaces the state field only', async () => {
    const client = await store.connect();
    const state = { a: 1 };
    const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });
    await client.heartbeat({ connId: 'c', patchState: { b: [] } });
    expect(await redis.hgetall('prs:conn:c')).toMatchObject({
      conn_id: 'c',
      user_id: 'u',
      room_id: 'r',
      epoch: String(epoch),
      state: '{"a":1,"b":[]}',
    });
    checkIndices(await readIndices(redis));
  });

  test('3.3 a higher epoch is adopted in the hash and in conn_meta', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const { epoch } = await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
    for (const [client, higher] of [
      [one, epoch + 1],
      [two, epoch + 5],
    ] as const) {
      await client.heartbeat({ connId: 'c', epoch: higher });
      expect(await redis.hget('prs:conn:c', 'epoch')).toBe(String(higher));
      expect(await redis.hget('prs:{room:r}:conn_meta', 'c')).toBe(
        JSON.stringify({ userId: 'u', epoch: higher }),
      );
    }
    checkIndices(await readIndices(redis));
  });

  test('3.3 a refused heartbeat writes nothing', async () => {
    const client = await store.connect();
    const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1 } });
    await redis.pexpire('prs:conn:c', 100_000);
    const before = await readIndices(redis);
    for (const heartbeat of [{}, { patchState: { a: 2 } }]) {
      const stale = client.heartbeat({ connId: 'c', epoch: epoch - 1, ...heartbeat });
      await expect(stale).rejects.toMatchObject({ code: 'STALE_EPOCH' });
      const gone = client.heartbeat({ connId: 'gone', ...heartbeat });
      await expect(gone).rejects.toMatchObject({ code: 'CONNECTION_NOT_FOUND' });
    }
    expect(await readIndices(redis)).toEqual(before);
    expect(await redis.pttl('prs:conn:c')).toBeLessThanOrEqual(100_000);
  });

  test('3.2 a move removes the connection from every old index', async () => {
    const client = await store.connect();
    await client.join({ roomId: 'r1', userId: 'u1', connId: 'c' });
    await client.join({ roomId: 'r1', userId: 'u1', connId: 'stays' });
    await client.join({ roomId: 'r2', userId: 'u2', connId: 'c' });
    const indices = await readIndices(redis);
    expect(checkIndices(indices)).toEqual(['r1 stays u1', 'r2 c u2']);
    expect(indices.users.get('u1')).toEqual({ conns: ['stays'], rooms: ['r1'] });
    expect(indices.users.get('u2')).toEqual({ conns: ['c'], rooms: ['r2'] });
    expect(indices.rooms.get('r1')?.members).toEqual(['u1']);
  });

  test('3.6 the user stays a member while another of their connections is in the room', async () => {
    const client = await store.connect();
    for (const connId of ['a', 'b']) await client.join({ roomId: 'r', userId: 'u', connId });
    await client.join({ roomId: 'r2', userId: 'u', connId: 'c' });
    await client.leave('a');
    expect(await redis.smembers('prs:{room:r}:members')).toEqual(['u']);
    await client.leave('b');
    expect(await redis.exists('prs:{room:r}:members')).toBe(0);
    expect(await redis.smembers('prs:user:u:rooms')).toEqual(['r2']);
    checkIndices(await readIndices(redis));
  });

  test('3.7 a late heartbeat restores no hash and no entry', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const { epoch } = await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await short.join({ roomId: 'r', userId: 'u', connId: 'd' });
    await two.leave('c');
    await expired(two, 'r', 'd');
    // `one` has `c` in its cache, and `short` has `d`.
    await expect(one.heartbeat({ connId: 'c', epoch })).rejects.toThrow();
    await expect(one.heartbeat({ connId: 'c', patchState: { a: 1 } })).rejects.toThrow();
    await expect(short.heartbeat({ connId: 'd' })).rejects.toThrow();
    expect(await redis.keys('prs:conn:*')).toEqual([]);
    await short.reapOnce();
    expect(await redis.keys('*')).toEqual([]);
  });

  test('2 keyPrefix is prepended to every key and channel', async () => {
    const keyPrefix = 'app:p[*]:';
    const client = await store.connect({ keyPrefix });
    const plain = await store.connect();
    const events: string[] = [];
    await client.subscribe((event) => void events.push(`${event.type} ${event.connId}`));
    await plain.join({ roomId: 'r', userId: 'u', connId: 'plain' });
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    expect((await client.fetchRoomSnapshot('r')).map((entry) => entry.connId)).toEqual(['c']);
    const keys = (await redis.keys('*')).filter((key) => !key.startsWith('prs:'));
    expect(keys.every((key) => key.startsWith(keyPrefix))).toBe(true);
    expect(keys).toContain(`${keyPrefix}{room:r}:conns`);
    await client.leave('c');
    await eventually(() => expect(events).toEqual(['join c', 'leave c']));
  });
});
