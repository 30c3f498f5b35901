// Stored epochs without a successor: a legacy node, or a Rollcall version without the bound of 3.3,
// adopted 2^53 - 1 from a heartbeat. Joins ignore such epochs, and fencing continues with the new
// ones.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { sharedDb } from '../support/redis.js';

const PLACE = { roomId: 'r', userId: 'u', connId: 'c' };
const LAYOUTS = {
  v1: { conn: 'prs:conn:c', meta: 'prs:{room:r}:conn_meta' },
  slotted: { conn: 'prs:{room:r}:conn:c', meta: 'prs:{room:r}:conn_meta' },
} as const;
const ADOPTED = ['9007199254740991', '9007199254740992'];
/** On `slotted`, only Rollcall writes epochs. */
const CORRUPT = { v1: [...ADOPTED, '1e300', '-5', 'nan', 'none'], slotted: ADOPTED };

async function open(layout: keyof typeof LAYOUTS) {
  const { server, db, url } = await sharedDb();
  const redis = (await server.client(db)) as Redis;
  const connect = () => openClient({ url, layout, ttlMs: 600_000 });
  return { redis, connect, keys: LAYOUTS[layout] };
}

async function store(redis: Redis, keys: { conn: string; meta: string }, epoch: string) {
  await redis.hset(keys.conn, 'epoch', epoch);
  await redis.hset(keys.meta, 'c', `{"userId":"u","epoch":${Number(epoch) || 0}}`);
}

describe.each(['v1', 'slotted'] as const)('3.1, 3.3: a stored epoch is corrupt (%s)', (layout) => {
  for (const epoch of CORRUPT[layout]) {
    for (const [where, place] of Object.entries({
      'the same place': PLACE,
      'another user': { ...PLACE, userId: 'v' },
      'another room': { ...PLACE, roomId: 'q' },
    })) {
      test(`${epoch}: a join to ${where} gets an epoch that heartbeats accept, and that fences`, async () => {
        const { redis, connect, keys } = await open(layout);
        const [owner, next] = [await connect(), await connect()];
        const before = (await owner.join(PLACE)).epoch;
        await store(redis, keys, epoch);
        // By a node that has cached the corrupt epoch, and by one that has not.
        for (const node of [owner, next]) {
          const joined = await node.join(place);
          expect(joined.epoch).toBeGreaterThan(before);
          expect(joined.epoch).toBeLessThan(before + 24 * 60 * 60 * 1000);
          for (const client of [owner, next]) {
            const heartbeat = { connId: 'c', epoch: joined.epoch };
            expect(await client.heartbeat(heartbeat)).toEqual({
              changed: false,
              epoch: joined.epoch,
            });
          }
          // A client with the corrupt epoch has lost the connection.
          const late = { connId: 'c', epoch: 2 ** 53 - 1 };
          await expect(next.heartbeat(late)).rejects.toMatchObject({
            code: layout === 'v1' ? 'INVALID_ARGUMENT' : 'CONNECTION_NOT_FOUND',
          });
        }
        expect(await owner.leave('c')).toBeNull();
        expect(await next.leave('c')).toEqual({ roomId: place.roomId, userId: place.userId });
        expect(await redis.keys('*')).toEqual([]);
        redis.disconnect();
      });
    }
  }

  test('an epoch far ahead that has a successor is incremented', async () => {
    const { redis, connect, keys } = await open(layout);
    const [owner, next] = [await connect(), await connect()];
    await owner.join(PLACE);
    await store(redis, keys, String(2 ** 53 - 3));
    const joined = await next.join(PLACE);
    expect(joined.epoch).toBe(2 ** 53 - 2);
    await expect(owner.heartbeat({ connId: 'c', epoch: 2 ** 53 - 3 })).rejects.toMatchObject({
      code: 'STALE_EPOCH',
    });
    expect((await next.heartbeat({ connId: 'c', epoch: joined.epoch })).epoch).toBe(joined.epoch);
    expect(await next.leave('c')).not.toBeNull();
    redis.disconnect();
  });
});
