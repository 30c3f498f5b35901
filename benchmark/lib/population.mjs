// Generated connections, and functions that write them into Redis as section 2 of the specification
// defines, without a join.

/** Longer than any run, so that no connection expires. */
export const TTL_MS = 600_000;

/** A typical small state. */
export const STATE = { mic: true, camera: false, cursor: { x: 120, y: 348 }, status: 'active' };

// mulberry32: the same numbers in every run and every process.
function random(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-';

/** An id in the format of Socket.IO: 20 characters. */
export function connIdOf(number) {
  const next = random(number);
  return Array.from({ length: 20 }, () => LETTERS[Math.floor(next() * LETTERS.length)]).join('');
}

/**
 * Connections with one user each, in a random order that is the same in every run: heartbeats of
 * real sockets are not grouped by room. `first` is the number of the first id.
 */
export function people({ rooms, perRoom, prefix = 'room', first = 1 }) {
  const list = Array.from({ length: rooms * perRoom }, (_, i) => ({
    roomId: `${prefix}-${Math.floor(i / perRoom)}`,
    userId: `user-${first + i}`,
    connId: connIdOf(first + i),
    epoch: 0,
  }));
  const next = random(list.length);
  for (let i = list.length - 1; i > 0; i--) {
    const j = Math.floor(next() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

/** Joins them with a Rollcall client, with many joins in flight. */
export async function joinAll(client, list, state = STATE) {
  await inParallel(64, list.length, async (i) => {
    const { roomId, userId, connId } = list[i];
    list[i].epoch = (await client.join({ roomId, userId, connId, state, snapshot: false })).epoch;
  });
}

/** Runs `work` for 0, 1, … `count` - 1, `width` at a time. */
export async function inParallel(width, count, work) {
  let next = 0;
  const lane = async () => {
    while (next < count) await work(next++);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

/** Writes the keys directly. */
export async function seed(redis, list, state = STATE) {
  const stateJson = JSON.stringify(state);
  for (let start = 0; start < list.length; start += 1000) {
    const pipeline = redis.pipeline();
    for (const person of list.slice(start, start + 1000)) {
      const now = Date.now();
      person.epoch = now;
      writeJoin(pipeline, { ...person, stateJson, now });
    }
    for (const [error] of await pipeline.exec()) if (error) throw error;
  }
}

/** Queues the write commands of one join. */
export function writeJoin(pipeline, { roomId, userId, connId, epoch, stateJson, now }) {
  const room = `prs:{room:${roomId}}`;
  const conn = `prs:conn:${connId}`;
  pipeline.sadd(`${room}:members`, userId);
  pipeline.sadd(`${room}:conns`, connId);
  pipeline.hset(conn, {
    conn_id: connId,
    user_id: userId,
    room_id: roomId,
    last_seen_ms: now,
    epoch,
    state: stateJson,
  });
  pipeline.pexpire(conn, TTL_MS);
  pipeline.zadd(`${room}:last_seen`, now, connId);
  pipeline.hset(`${room}:conn_meta`, connId, JSON.stringify({ userId, epoch }));
  pipeline.sadd(`prs:user:${userId}:conns`, connId);
  pipeline.sadd('prs:active_rooms', roomId);
}
