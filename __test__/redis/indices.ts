// Reads all keys of Rollcall in one atomic step, and checks that they agree with each other (the
// table of spec section 2). Used by the tests of section 2 and of clause 3.7.
import type { Redis } from 'ioredis';
import { expect } from 'vitest';

export interface Indices {
  /** The hash of each connection that has not expired. */
  conns: Map<string, Record<string, string>>;
  /** The contents of each room's keys. */
  rooms: Map<string, RoomIndices>;
  /** The contents of each user's keys. */
  users: Map<string, { conns: string[]; rooms: string[] }>;
  active: string[];
  /** The score of each room in its shard of the due index. */
  due: Map<string, number>;
  /** All other keys. */
  others: string[];
}

interface RoomIndices {
  conns: string[];
  members: string[];
  lastSeen: Map<string, number>;
  connMeta: Map<string, { userId: string; epoch: number }>;
}

/** All keys with their contents; in Lua, so that nothing changes or expires during the read. */
const DUMP = `
local dump = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  local content = {}
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'set' then content = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'string' then content = { redis.call('GET', key) } end
  if kind ~= 'none' then dump[#dump + 1] = { key, kind, content, redis.call('PTTL', key) } end
end
return dump`;

type Dumped = [key: string, kind: string, content: string[], ttl: number];

function pairs(flat: string[]): [string, string][] {
  return Array.from({ length: flat.length / 2 }, (_, i) => [
    flat[2 * i] as string,
    flat[2 * i + 1] as string,
  ]);
}

export async function readIndices(redis: Redis, prefix = 'prs:'): Promise<Indices> {
  const dump = (await redis.eval(DUMP, 0, prefix)) as Dumped[];
  const indices: Indices = {
    conns: new Map(),
    rooms: new Map(),
    users: new Map(),
    active: [],
    due: new Map(),
    others: [],
  };
  const room = (id: string): RoomIndices => {
    const known = indices.rooms.get(id) ?? {
      conns: [],
      members: [],
      lastSeen: new Map(),
      connMeta: new Map(),
    };
    indices.rooms.set(id, known);
    return known;
  };
  const user = (id: string) => {
    const known = indices.users.get(id) ?? { conns: [], rooms: [] };
    indices.users.set(id, known);
    return known;
  };
  for (const [key, kind, content, ttl] of dump) {
    const name = key.slice(prefix.length);
    const roomKey = /^\{room:(.*)\}:(conns|members|last_seen|conn_meta)$/s.exec(name);
    const userKey = /^user:(.*):(conns|rooms)$/s.exec(name);
    if (roomKey) {
      const [, id = '', part] = roomKey;
      expect(ttl, `TTL of ${key}`).toBe(-1);
      expect(kind, `type of ${key}`).toBe(
        part === 'last_seen' ? 'zset' : part === 'conn_meta' ? 'hash' : 'set',
      );
      if (part === 'conns') room(id).conns = content;
      if (part === 'members') room(id).members = content;
      if (part === 'last_seen') {
        room(id).lastSeen = new Map(pairs(content).map(([conn, score]) => [conn, Number(score)]));
      }
      if (part === 'conn_meta') {
        room(id).connMeta = new Map(pairs(content).map(([conn, json]) => [conn, JSON.parse(json)]));
      }
    } else if (userKey) {
      const [, id = '', part] = userKey;
      expect(kind, `type of ${key}`).toBe('set');
      if (part === 'conns') user(id).conns = content;
      else user(id).rooms = content;
    } else if (name.startsWith('conn:')) {
      expect(kind, `type of ${key}`).toBe('hash');
      expect(ttl, `TTL of ${key}`).toBeGreaterThanOrEqual(0);
      indices.conns.set(name.slice('conn:'.length), Object.fromEntries(pairs(content)));
    } else if (name === 'active_rooms') {
      indices.active = content;
    } else if (/^due:\d+$/.test(name)) {
      // Marks are removed with the last room.
      const rooms = pairs(content).filter(([, score]) => Number(score) < MARKS);
      expect(rooms.length, `rooms of ${key}`).toBeGreaterThan(0);
      for (const [id, score] of rooms) {
        expect(indices.due.has(id), `${id} is in one shard only`).toBe(false);
        indices.due.set(id, Number(score));
      }
    } else {
      indices.others.push(key);
    }
  }
  return indices;
}

/**
 * Entries of the due index with scores from this value on are not rooms (`lua/include/marks.lua`).
 */
export const MARKS = 2 ** 52;

const FIELDS = ['conn_id', 'epoch', 'last_seen_ms', 'room_id', 'state', 'user_id'];

function sorted(ids: Iterable<string>): string[] {
  return [...new Set(ids)].sort();
}

/**
 * Checks that every index agrees with every other and with the hashes. Connections that have
 * expired but were not reaped may still be in every index of their room, and in those of their
 * user. Returns the connections in the rooms, expired or not: `<room> <connection> <user>`, sorted.
 */
export function checkIndices(indices: Indices): string[] {
  const known: string[] = [];
  /** By user, the entries that must exist and those that may exist. */
  const live = new Ownership();
  const all = new Ownership();
  for (const [roomId, room] of indices.rooms) {
    const conns = sorted(room.conns);
    expect(conns.length, `an empty room ${roomId}`).toBeGreaterThan(0);
    expect(sorted(room.lastSeen.keys()), `last_seen of ${roomId}`).toEqual(conns);
    expect(sorted(room.connMeta.keys()), `conn_meta of ${roomId}`).toEqual(conns);
    for (const [conn, { userId }] of room.connMeta) {
      known.push(`${roomId} ${conn} ${userId}`);
      all.add(userId, conn, roomId);
      if (indices.conns.get(conn)?.room_id === roomId) live.add(userId, conn, roomId);
    }
    expectBetween(room.members, live.inRoom(roomId), all.inRoom(roomId), `members of ${roomId}`);
  }
  expectBetween(indices.users.keys(), live.users.keys(), all.users.keys(), 'users');
  for (const [userId, { conns, rooms }] of indices.users) {
    const [must, may] = [live.of(userId), all.of(userId)];
    expectBetween(conns, must.conns, may.conns, `connections of ${userId}`);
    expectBetween(rooms, must.rooms, may.rooms, `rooms of ${userId}`);
  }
  expect(sorted(indices.active), 'active_rooms').toEqual(sorted(indices.rooms.keys()));
  expect(sorted(indices.due.keys()), 'due index').toEqual(sorted(indices.rooms.keys()));

  for (const [conn, hash] of indices.conns) {
    expect(Object.keys(hash).sort(), `fields of ${conn}`).toEqual(FIELDS);
    const { conn_id, room_id = '', user_id, epoch, last_seen_ms } = hash;
    expect(conn_id).toBe(conn);
    const room = indices.rooms.get(room_id);
    expect(room?.connMeta.get(conn), `conn_meta of ${conn}`).toEqual({
      userId: user_id,
      epoch: Number(epoch),
    });
    expect(room?.lastSeen.get(conn), `last_seen of ${conn}`).toBe(Number(last_seen_ms));
  }
  return known.sort();
}

/** The users and places of connections. */
class Ownership {
  readonly users = new Map<string, { conns: string[]; rooms: string[] }>();

  of(userId: string) {
    return this.users.get(userId) ?? { conns: [], rooms: [] };
  }

  add(userId: string, conn: string, roomId: string): void {
    const { conns, rooms } = this.of(userId);
    this.users.set(userId, { conns: [...conns, conn], rooms: [...rooms, roomId] });
  }

  inRoom(roomId: string): string[] {
    return [...this.users].filter(([, { rooms }]) => rooms.includes(roomId)).map(([id]) => id);
  }
}

/** Contains all of `must`, and nothing outside of `may`. */
function expectBetween(
  found: Iterable<string>,
  must: Iterable<string>,
  may: Iterable<string>,
  what: string,
): void {
  const ids = sorted(found);
  expect(ids, what).toEqual(expect.arrayContaining(sorted(must)));
  expect(sorted(may), what).toEqual(expect.arrayContaining(ids));
}
