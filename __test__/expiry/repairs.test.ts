// Data that were written by hand or are damaged: the reaper repairs them and counts each repair,
// and no keys are left at the end.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import {
  type AnyEvent,
  brief,
  type Client,
  record,
  useIoredis,
  useStore,
} from '../conformance/stores.js';
import { type ForeignConn, foreignJoin } from '../redis/foreign.js';
import { checkIndices, readIndices } from '../redis/indices.js';
import { createRandom } from '../support/random.js';
import { eventually } from '../support/wait.js';
import { leavesOf } from './expiry.js';

/** The indices are compared in one of ten passes. */
const FALLBACK_MS = 20;
const ROOM = 'prs:{room:r}';
const A = { roomId: 'r', userId: 'u1', connId: 'a' };
const B = { roomId: 'r', userId: 'u1', connId: 'b' };
const C = { roomId: 'r', userId: 'u2', connId: 'c' };
const PEOPLE = [A, B, C];

interface Damage {
  what: string;
  damage(redis: Redis): Promise<unknown>;
  /** The number of entries to repair. */
  repairs: number;
  /** The leaves that it causes, in the form of `brief`; these connections have no hash. */
  leaves?: string[];
  /** The connections that remain; by default all. */
  there?: string[];
}

/** Damage that the sizes of a room's indices reveal. */
const damages: Damage[] = [
  {
    what: 'conns is deleted',
    damage: (redis) => redis.del(`${ROOM}:conns`),
    repairs: 3,
  },
  {
    what: 'members is deleted',
    damage: (redis) => redis.del(`${ROOM}:members`),
    repairs: 2,
  },
  {
    what: 'last_seen is deleted',
    damage: (redis) => redis.del(`${ROOM}:last_seen`),
    repairs: 3,
  },
  {
    what: 'conn_meta is deleted',
    damage: (redis) => redis.del(`${ROOM}:conn_meta`),
    repairs: 3,
  },
  {
    what: 'a connection is missing in conns',
    damage: (redis) => redis.srem(`${ROOM}:conns`, 'a'),
    repairs: 1,
  },
  {
    what: 'a connection is missing in last_seen: a hash but no zset entry',
    damage: (redis) => redis.zrem(`${ROOM}:last_seen`, 'a'),
    repairs: 1,
  },
  {
    what: 'a connection is missing in conn_meta',
    damage: (redis) => redis.hdel(`${ROOM}:conn_meta`, 'a'),
    repairs: 1,
  },
  {
    what: 'a zset entry without a hash',
    damage: (redis) => redis.zadd(`${ROOM}:last_seen`, 1, 'ghost'),
    repairs: 1,
  },
  {
    what: 'an entry of conns without a hash',
    damage: (redis) => redis.sadd(`${ROOM}:conns`, 'ghost'),
    repairs: 1,
  },
  {
    what: 'an entry of conn_meta without a hash: the entry names the connection that left',
    damage: (redis) => redis.hset(`${ROOM}:conn_meta`, 'ghost', '{"userId":"u9","epoch":7}'),
    repairs: 1,
    leaves: ['leave ghost r u9 timeout'],
  },
  {
    what: 'members without connections',
    damage: (redis) => redis.sadd(`${ROOM}:members`, 'ghost1', 'ghost2'),
    repairs: 2,
  },
  {
    what: 'all of a room but one index is deleted',
    damage: (redis) => redis.del(`${ROOM}:conns`, `${ROOM}:members`, `${ROOM}:conn_meta`),
    repairs: 8,
  },
  {
    what: 'a hash is deleted, and all entries but one',
    damage: async (redis) => {
      await redis.del('prs:conn:a');
      await redis.srem(`${ROOM}:conns`, 'a');
      await redis.zrem(`${ROOM}:last_seen`, 'a');
    },
    repairs: 1,
    leaves: ['leave a r u1 timeout'],
    there: ['b', 'c'],
  },
];

/** Damage that is found only in rooms that were not inspected before. */
const ofUnknownRooms: Damage[] = [
  { what: 'nothing', damage: async () => {}, repairs: 0 },
  {
    what: 'a hash is deleted',
    damage: (redis) => redis.del('prs:conn:a'),
    repairs: 1,
    leaves: ['leave a r u1 timeout'],
    there: ['b', 'c'],
  },
  {
    what: 'all hashes are deleted',
    damage: (redis) => redis.del('prs:conn:a', 'prs:conn:b', 'prs:conn:c'),
    repairs: 3,
    leaves: ['leave a r u1 timeout', 'leave b r u1 timeout', 'leave c r u2 timeout'],
    there: [],
  },
  {
    what: "a user's connections are deleted",
    damage: (redis) => redis.del('prs:user:u1:conns'),
    repairs: 2,
  },
  {
    what: 'a wrong member with a matching count',
    damage: async (redis) => {
      await redis.srem(`${ROOM}:members`, 'u2');
      await redis.sadd(`${ROOM}:members`, 'ghost');
    },
    repairs: 2,
  },
  {
    what: 'a hash without a TTL, with a recent heartbeat',
    damage: (redis) => redis.persist('prs:conn:a'),
    repairs: 1,
  },
  {
    what: 'a hash without a TTL, with an old heartbeat',
    // The TTL is repaired, and the connection is then dead: one repair each.
    damage: async (redis) => {
      await redis.persist('prs:conn:a');
      await redis.hset('prs:conn:a', 'last_seen_ms', Date.now() - 10_000_000);
    },
    repairs: 2,
    leaves: ['leave a r u1 timeout'],
    there: ['b', 'c'],
  },
  {
    what: 'no hash has a TTL, and only one index exists',
    damage: async (redis) => {
      for (const { connId } of PEOPLE) await redis.persist(`prs:conn:${connId}`);
      await redis.del(`${ROOM}:conns`, `${ROOM}:members`, `${ROOM}:last_seen`);
    },
    repairs: 3 + 8,
  },
  {
    what: 'only the hashes are left: an active room without members',
    damage: async (redis) => {
      await redis.del(`${ROOM}:conns`, `${ROOM}:members`, `${ROOM}:last_seen`, `${ROOM}:conn_meta`);
      // Nothing shows that these connections ever existed.
      for (const { connId } of PEOPLE) await redis.pexpire(`prs:conn:${connId}`, 1);
      await redis.del('prs:user:u1:conns', 'prs:user:u2:conns');
    },
    repairs: 0,
    there: [],
  },
];

describe('repairs', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  /** Waits for the repairs, then checks that no more follow and that everything agrees. */
  async function expectRepaired(
    client: Client,
    events: () => Promise<AnyEvent[]>,
    { repairs, leaves = [], there = ['a', 'b', 'c'] }: Damage,
    pass: () => Promise<unknown>,
  ): Promise<void> {
    await eventually(async () => {
      await pass();
      expect(client.metrics().repairs).toBe(repairs);
      expect(leavesOf(await events()).map(brief)).toEqual(leaves);
      expect(await redis.smembers(`${ROOM}:conns`).then((conns) => conns.sort())).toEqual(there);
    });
    const { sweeps } = client.metrics();
    await eventually(async () => {
      await pass();
      expect(client.metrics().sweeps).toBeGreaterThan(sweeps + 3);
    });
    const indices = await readIndices(redis);
    // Legacy nodes do not write this index; adding its entries is not a repair.
    expect(checkIndices(indices)).toEqual(
      PEOPLE.filter(({ connId }) => there.includes(connId)).map(
        ({ roomId, connId, userId }) => `${roomId} ${connId} ${userId}`,
      ),
    );
    expect([...indices.conns.keys()].sort()).toEqual(there);
    expect(client.metrics().repairs).toBe(repairs);
    expect(leavesOf(await events()).map(brief)).toEqual(leaves);
    for (const connId of there) expect(await client.leave(connId)).not.toBeNull();
    expect(await redis.keys('*')).toEqual([]);
  }

  describe('6.5: written by hand, before the first inspection', () => {
    test.each([...ofUnknownRooms, ...damages])('$what [reapOnce]', async (damage) => {
      const client = await store.connect();
      const recorder = await record(client);
      for (const conn of PEOPLE) await foreignJoin(redis, conn);
      await damage.damage(redis);
      const { expired } = await client.reapOnce();
      expect(client.metrics().repairs).toBe(damage.repairs);
      // Entries without an owner are removed too, without a leave.
      expect(expired).toBeGreaterThanOrEqual(damage.leaves?.length ?? 0);
      const events = async () => [...recorder.events];
      await expectRepaired(client, events, damage, () => client.reapOnce());
    });
  });

  describe('6.5: in the index already', () => {
    test.each(damages)('$what [a running reaper]', async (damage) => {
      const options = { sweepIntervalMs: 50, fallbackSweepMs: FALLBACK_MS };
      const client = await store.connect(options);
      const recorder = await record(client);
      for (const conn of PEOPLE) await client.join(conn);
      await damage.damage(redis);
      await client.startReaper();
      const events = async () => [...recorder.events];
      await expectRepaired(client, events, damage, async () => {});
    });
  });

  test('6.5: a hash without a TTL gets the remaining part of its TTL', async () => {
    const client = await store.connect({ ttlMs: 60_000 });
    await foreignJoin(redis, { ...A, lastSeenMs: Date.now() - 20_000 });
    await foreignJoin(redis, { ...B, lastSeenMs: Date.now() + 1_000_000 });
    for (const { connId } of [A, B]) await redis.persist(`prs:conn:${connId}`);
    await client.reapOnce();
    const left = await redis.pttl('prs:conn:a');
    expect(left).toBeGreaterThan(20_000);
    expect(left).toBeLessThanOrEqual(40_000);
    // A fast clock does not extend its TTL.
    expect(await redis.pttl('prs:conn:b')).toBeLessThanOrEqual(60_000);
    expect(client.metrics().repairs).toBe(2);
    await client.leave('a');
    await client.leave('b');
  });

  test('6.5: a hash of Rollcall that loses its TTL expires, too', async () => {
    const client = await store.connect({ ttlMs: 200, sweepIntervalMs: 50 });
    const recorder = await record(client);
    await client.startReaper();
    await client.join(A);
    await redis.persist('prs:conn:a');
    await eventually(() => {
      expect(leavesOf(recorder.events).map(brief)).toEqual(['leave a r u1 timeout']);
    });
    // A pass counts when it ends; its events are emitted before.
    await eventually(() => expect(client.metrics().repairs).toBe(1));
    expect(await redis.keys('*')).toEqual([]);
  });

  test('6.5: without connections, only in active_rooms', async () => {
    const client = await store.connect();
    await redis.sadd('prs:active_rooms', 'empty1', 'empty2');
    await redis.sadd('prs:{room:empty2}:members', 'ghost');
    await client.reapOnce();
    expect(await redis.keys('*')).toEqual([]);
    expect(client.metrics().repairs).toBe(1);
  });

  test('6.5: many rooms with random damage, with several reapers', async () => {
    const random = createRandom(4);
    const options = { sweepIntervalMs: 50, fallbackSweepMs: FALLBACK_MS };
    const nodes = await Promise.all([1, 2, 3].map(() => store.connect(options)));
    const [node] = nodes as [Client];
    const recorder = await record(node);
    const conns: ForeignConn[] = [];
    for (let room = 0; room < 60; room++) {
      const ours = random.chance(0.5);
      for (let i = random.int(1, 12); i > 0; i--) {
        const conn = {
          roomId: `r${room}`,
          userId: `u${random.int(0, 9)}`,
          connId: `r${room}-${i}`,
        };
        conns.push(conn);
        if (ours) await node.join({ ...conn, snapshot: false });
        else await foreignJoin(redis, conn);
      }
      const key = `prs:{room:r${room}}`;
      const [first] = conns.slice(-1) as [ForeignConn];
      const { connId } = first;
      const kinds = [
        () => redis.del(`${key}:${random.pick(['conns', 'members', 'last_seen', 'conn_meta'])}`),
        () => redis.srem(`${key}:conns`, connId),
        () => redis.zrem(`${key}:last_seen`, connId),
        () => redis.hdel(`${key}:conn_meta`, connId),
        () => redis.zadd(`${key}:last_seen`, 1, 'ghost'),
        () => redis.hset(`${key}:conn_meta`, `${connId}-ghost`, '{"userId":"ghost","epoch":1}'),
        async () => {},
      ];
      await random.pick(kinds)();
    }
    for (const one of nodes) await one.startReaper();
    const all = conns.map(({ roomId, connId, userId }) => `${roomId} ${connId} ${userId}`).sort();
    await eventually(async () => expect(checkIndices(await readIndices(redis))).toEqual(all), {
      timeoutMs: 10_000,
      intervalMs: 50,
    });
    const ghosts = leavesOf(recorder.events);
    expect(ghosts.every(({ userId }) => userId === 'ghost')).toBe(true);
    for (const { connId } of conns) expect(await node.leave(connId), connId).not.toBeNull();
    expect(await redis.keys('*')).toEqual([]);
  });
});
