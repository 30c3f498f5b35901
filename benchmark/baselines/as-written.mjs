// `Baseline (Current)`: presence on ioredis as a plain TypeScript service writes it. A heartbeat
// reads the connection's hash, parses and merges its state, and writes in a transaction; a
// snapshot reads every connection's hash; a leave reads the room's whole `conn_meta`.
import { TTL_MS, writeJoin } from '../lib/population.mjs';

/** The state after a patch: the text to write, or `undefined` if nothing changed. */
export function patched(stored, patch) {
  const state = JSON.parse(stored || '{}');
  if (patch === undefined) return undefined;
  const next = JSON.stringify({ ...state, ...patch });
  return next === stored ? undefined : next;
}

/** Queues the write commands of one heartbeat. */
export function writeHeartbeat(commands, { connId, roomId, userId, stored, epoch, next, now }) {
  const conn = `prs:conn:${connId}`;
  commands.hset(conn, 'last_seen_ms', now);
  commands.pexpire(conn, TTL_MS);
  commands.zadd(`prs:{room:${roomId}}:last_seen`, now, connId);
  if (epoch > stored) {
    commands.hset(conn, 'epoch', epoch);
    commands.hset(`prs:{room:${roomId}}:conn_meta`, connId, JSON.stringify({ userId, epoch }));
  }
  if (next !== undefined) commands.hset(conn, 'state', next);
}

function event(type, { roomId, userId, connId, state, epoch }) {
  return JSON.stringify({ type, roomId, userId, connId, state, ts: Date.now(), epoch });
}

export class AsWritten {
  #redis;

  constructor(redis) {
    this.#redis = redis;
  }

  async heartbeat({ connId, epoch, patchState }) {
    const details = await this.#redis.hgetall(`prs:conn:${connId}`);
    if (!details.room_id) return false;
    const stored = Number(details.epoch);
    if (epoch !== undefined && epoch < stored) return false;
    const next = patched(details.state, patchState);
    const { room_id: roomId, user_id: userId } = details;
    const transaction = this.#redis.multi();
    writeHeartbeat(transaction, { connId, roomId, userId, stored, epoch, next, now: Date.now() });
    await transaction.exec();
    if (next !== undefined) {
      const state = JSON.parse(next);
      const text = event('update', { roomId, userId, connId, state, epoch: stored });
      await this.#redis.publish(`prs:{room:${roomId}}:events`, text);
    }
    return next !== undefined;
  }

  async join({ roomId, userId, connId, state }) {
    const now = Date.now();
    const before = Number((await this.#redis.hget(`prs:conn:${connId}`, 'epoch')) ?? 0);
    const epoch = Math.max(before + 1, now);
    const transaction = this.#redis.multi();
    const stateJson = JSON.stringify(state);
    writeJoin(transaction, { roomId, userId, connId, epoch, stateJson, now });
    await transaction.exec();
    const text = event('join', { roomId, userId, connId, state, epoch });
    await this.#redis.publish(`prs:{room:${roomId}}:events`, text);
    return this.snapshot(roomId);
  }

  async leave(connId) {
    const redis = this.#redis;
    const conn = `prs:conn:${connId}`;
    const { room_id: roomId, user_id: userId, epoch } = await redis.hgetall(conn);
    if (!roomId) return null;
    const room = `prs:{room:${roomId}}`;
    const metas = await redis.hgetall(`${room}:conn_meta`);
    const others = Object.entries(metas).some(
      ([other, meta]) => other !== connId && JSON.parse(meta).userId === userId,
    );
    const transaction = redis.multi();
    transaction.srem(`${room}:conns`, connId);
    transaction.hdel(`${room}:conn_meta`, connId);
    transaction.zrem(`${room}:last_seen`, connId);
    transaction.srem(`prs:user:${userId}:conns`, connId);
    transaction.del(conn);
    if (!others) transaction.srem(`${room}:members`, userId);
    await transaction.exec();
    const text = event('leave', { roomId, userId, connId, state: null, epoch: Number(epoch) });
    await redis.publish(`${room}:events`, text);
    if ((await redis.scard(`${room}:conns`)) === 0) await redis.srem('prs:active_rooms', roomId);
    return { roomId, userId };
  }

  async snapshot(roomId) {
    const conns = await this.#redis.smembers(`prs:{room:${roomId}}:conns`);
    const pipeline = this.#redis.pipeline();
    for (const connId of conns) pipeline.hgetall(`prs:conn:${connId}`);
    const entries = [];
    for (const [error, details] of await pipeline.exec()) {
      if (error) throw error;
      if (!details.conn_id) continue;
      entries.push({
        connId: details.conn_id,
        userId: details.user_id,
        state: JSON.parse(details.state || '{}'),
        lastSeenMs: Number(details.last_seen_ms),
        epoch: Number(details.epoch),
      });
    }
    return entries;
  }
}
