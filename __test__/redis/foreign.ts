// A legacy node, from the point of view of Redis: writes presence in the layout of the reference
// (the table of spec section 2) with plain commands, and none of Rollcall's own keys.
import type { Redis } from 'ioredis';

export interface ForeignConn {
  roomId: string;
  userId: string;
  connId: string;
  epoch?: number;
  state?: unknown;
  ttlMs?: number;
  /** The time of the last heartbeat; by default now. */
  lastSeenMs?: number;
}

export async function foreignJoin(redis: Redis, conn: ForeignConn): Promise<number> {
  const { roomId, userId, connId, state = {}, ttlMs = 600_000 } = conn;
  const now = conn.lastSeenMs ?? Date.now();
  const epoch = conn.epoch ?? now;
  const event = { type: 'join', roomId, userId, connId, state, ts: now, epoch };
  await redis
    .multi()
    .hset(`prs:conn:${connId}`, {
      conn_id: connId,
      user_id: userId,
      room_id: roomId,
      last_seen_ms: String(now),
      epoch: String(epoch),
      state: JSON.stringify(state),
    })
    .pexpire(`prs:conn:${connId}`, ttlMs)
    .sadd(`prs:{room:${roomId}}:conns`, connId)
    .sadd(`prs:{room:${roomId}}:members`, userId)
    .zadd(`prs:{room:${roomId}}:last_seen`, now, connId)
    .hset(`prs:{room:${roomId}}:conn_meta`, connId, JSON.stringify({ userId, epoch }))
    .sadd(`prs:user:${userId}:conns`, connId)
    .sadd('prs:active_rooms', roomId)
    .publish(`prs:{room:${roomId}}:events`, JSON.stringify(event))
    .exec();
  return epoch;
}

/** A leave of the reference, which does not know user rooms and the due index. */
export async function foreignLeave(redis: Redis, conn: ForeignConn): Promise<void> {
  const { roomId, userId, connId, epoch = 0 } = conn;
  await redis
    .multi()
    .del(`prs:conn:${connId}`)
    .srem(`prs:{room:${roomId}}:conns`, connId)
    .zrem(`prs:{room:${roomId}}:last_seen`, connId)
    .hdel(`prs:{room:${roomId}}:conn_meta`, connId)
    .srem(`prs:user:${userId}:conns`, connId)
    .exec();
  const users = Object.values(await redis.hgetall(`prs:{room:${roomId}}:conn_meta`));
  if (!users.some((json) => JSON.parse(json).userId === userId)) {
    await redis.srem(`prs:{room:${roomId}}:members`, userId);
  }
  if ((await redis.scard(`prs:{room:${roomId}}:conns`)) === 0) {
    await redis.srem('prs:active_rooms', roomId);
  }
  const event = { type: 'leave', roomId, userId, connId, state: null, ts: Date.now(), epoch };
  await redis.publish(`prs:{room:${roomId}}:events`, JSON.stringify(event));
}
