// A server without free memory. With `noeviction`, calls that need memory are refused and calls
// that free it are not; with `allkeys-lru`, evicted keys are repaired.
import type { Redis } from 'ioredis';
import { describe, expect, onTestFinished } from 'vitest';
import { rejection } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { count, proven } from './proven.js';
import { removeFromScripts } from './scripts.js';
import { connect, ROOMS, startWorld, type World } from './world.js';

describe('4: maxmemory with noeviction', () => {
  proven(
    'calls that need memory are refused; leave, heartbeats and reaping continue',
    { without: 'freeing' },
    async (off) => {
      const world = await startWorld({ nodes: 1 });
      if (off.includes('freeing')) {
        // The effect of `allow_write_on_oom`.
        await removeFromScripts(world, "redis.call('PERSIST', key)");
      }
      const node = world.node();
      const { url } = world.proxy;
      const short = await connect({ url, ttlMs: 1500, sweepIntervalMs: 200 });
      const ids = Array.from({ length: 12 }, (_, i) => i);
      const place = (i: number) => ({ roomId: `r${i % 4}`, userId: `u${i % 5}` });
      for (const i of ids) await node.join({ ...place(i), connId: `long${i}` });
      for (const i of ids) await short.join({ ...place(i), connId: `short${i}` });
      const held = await node.locks.acquire('held', { ownerId: 'o', ttlMs: 1000 });
      const data = [{ key: 'k', value: 'v' }];
      await world.redis.config('SET', 'maxmemory', '1');

      for (const refused of [
        () => node.join({ ...place(0), connId: 'new' }),
        () => node.join({ ...place(0), connId: 'long0' }),
        () => node.heartbeat({ connId: 'long0', patchState: { big: 'x'.repeat(100) } }),
        () => node.metadata.set({ channelType: 't', channelName: 'n', data }),
      ]) {
        const error = await rejection(refused);
        expect([error.code, error.outcome]).toEqual(['UNAVAILABLE', undefined]);
        expect(error.message).toContain('memory');
      }
      // A heartbeat needs no memory.
      await node.heartbeat({ connId: 'long0' });
      const results = await node.heartbeatMany(ids.map((i) => ({ connId: `long${i}` })));
      expect(results.filter((result) => result instanceof Error)).toEqual([]);
      // The half without heartbeats is removed in time.
      await short.startReaper();
      await eventually(
        async () => {
          for (const room of ROOMS) {
            expect(await world.redis.zcard(`prs:{room:${room}}:last_seen`)).toBe(3);
          }
        },
        { timeoutMs: 5000 },
      );
      expect(short.metrics().sweepsFailed).toBe(0);
      for (const i of ids) expect(await node.leave(`long${i}`)).not.toBeNull();
      // Longer than its TTL: a lease is renewed without memory, and released without memory.
      expect(held.lost.aborted).toBe(false);
      await held.release();
      expect(await node.locks.inspect('held')).toBeNull();
      expect(await world.redis.keys('*')).toEqual(['prs:{prs:lock:held}:token']);
      await world.redis.config('SET', 'maxmemory', '0');
      await world.converged();
    },
  );
});

/** Each kind of key: its name without ids. */
const KINDS = [
  'prs:conn:*',
  'prs:{room:*}:conns',
  'prs:{room:*}:members',
  'prs:{room:*}:last_seen',
  'prs:{room:*}:conn_meta',
  'prs:user:*:conns',
  'prs:user:*:rooms',
  'prs:active_rooms',
  'prs:due:*',
] as const;

function kindOf(key: string): string {
  return key
    .replace(/^prs:conn:.*/s, 'prs:conn:*')
    .replace(/\{room:[^}]*\}/, '{room:*}')
    .replace(/^prs:user:[^:]*:/, 'prs:user:*:')
    .replace(/^prs:due:\d+/, 'prs:due:*');
}

async function keysByKind(redis: Redis): Promise<Map<string, string[]>> {
  const kinds = new Map<string, string[]>(KINDS.map((kind) => [kind, []]));
  for (const key of await redis.keys('*')) kinds.get(kindOf(key))?.push(key);
  return kinds;
}

/**
 * Nodes that reap and check often, and clients that keep their connections alive, as in an
 * application.
 */
async function populated({
  heartbeats = true,
} = {}): Promise<{ world: World; stop: () => Promise<void> }> {
  const world = await startWorld({
    nodes: 1,
    client: { sweepIntervalMs: 100, fallbackSweepMs: 200, ttlMs: heartbeats ? 2000 : 60_000 },
  });
  const node = world.node();
  await node.startReaper();
  let stopped = false;
  onTestFinished(() => {
    stopped = true;
  });
  const strange: string[] = [];
  const keep = async (connId: string, i: number) => {
    const join = { roomId: `r${i % 4}`, userId: `u${i % 7}`, connId, snapshot: false };
    await node.join(join);
    while (!stopped && heartbeats) {
      try {
        await node.heartbeat({ connId }).catch((error: { code: string }) => {
          // Its hash was evicted, and the client gets an error.
          if (error.code !== 'CONNECTION_NOT_FOUND') throw error;
          return node.join(join);
        });
      } catch (error) {
        // While there is no memory.
        const { code } = error as { code: string };
        if (code !== 'UNAVAILABLE' && !stopped) strange.push(String(error));
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const kept = Array.from({ length: 24 }, (_, i) => keep(`c${i}`, i));
  await eventually(async () => {
    const there = await Promise.all(ROOMS.map((room) => node.fetchRoomSnapshot(room)));
    return there.flat().length === 24;
  });
  return {
    world,
    stop: async () => {
      stopped = true;
      await Promise.all(kept);
      expect(strange).toEqual([]);
    },
  };
}

/** Every connection is in every index again, while heartbeats continue. */
async function restored(world: World, off: readonly unknown[]): Promise<void> {
  const expected = Array.from({ length: 24 }, (_, i) => `c${i}`).sort();
  await eventually(
    async () => {
      const by = await keysByKind(world.redis);
      expect(by.get('prs:conn:*')?.length).toBe(24);
      for (const kind of ['conns', 'members', 'last_seen', 'conn_meta']) {
        expect(by.get(`prs:{room:*}:${kind}`)?.length, kind).toBe(ROOMS.length);
      }
      const there = await Promise.all(ROOMS.map((room) => world.healthy.fetchRoomSnapshot(room)));
      expect(
        there
          .flat()
          .map(({ connId }) => connId)
          .sort(),
      ).toEqual(expected);
      const users = await Promise.all(
        Array.from({ length: 7 }, (_, i) => world.healthy.getUserPresence(`u${i}`)),
      );
      const ofUsers = users.flatMap(({ connections }) => connections.map(({ connId }) => connId));
      expect(ofUsers.sort(), 'connections of users').toEqual(expected);
      const active = await world.redis.smembers('prs:active_rooms');
      expect(active.sort(), 'active rooms').toEqual([...ROOMS]);
      await world.agrees();
    },
    // The duration of a repair is not promised; a control without repair should fail quickly.
    { timeoutMs: off.length > 0 ? 1000 : 10_000, intervalMs: 50 },
  );
}

describe('4: keys that are evicted', () => {
  for (const kind of KINDS) {
    const control =
      kind === 'prs:conn:*' ? 'not-found' : kind === 'prs:due:*' ? 'adopting' : 'checks';
    proven(`${kind}: repaired`, { without: control }, async (off) => {
      // Heartbeats would restore this key by themselves.
      const { world, stop } = await populated({ heartbeats: kind !== 'prs:{room:*}:last_seen' });
      const keys = (await keysByKind(world.redis)).get(kind) ?? [];
      await world.redis.unlink(world.random.pick(keys));
      await restored(world, off);
      // And when no key of the kind is left.
      await world.redis.unlink(...((await keysByKind(world.redis)).get(kind) ?? []));
      await restored(world, off);
      await stop();
      await world.converged({ withinMs: 4000 });
      await world.emptied();
    });
  }

  proven(
    'members that joins have partly restored: repaired',
    { without: 'checks' },
    async (off) => {
      const { world, stop } = await populated();
      const members = await world.redis.smembers('prs:{room:r0}:members');
      await world.redis.srem('prs:{room:r0}:members', ...members.slice(1));
      await restored(world, off);
      await stop();
      await world.converged({ withinMs: 4000 });
      await world.emptied();
    },
  );

  const rounds = count(20, 200);
  proven(
    `allkeys-lru evicts random keys, ${rounds} times`,
    { without: 'checks', timeoutMs: 60_000 },
    async (off) => {
      const { world, stop } = await populated();
      const { redis } = world;
      await redis.config('SET', 'maxmemory-policy', 'allkeys-lru');
      const hit = new Map<string, number>();
      for (let round = 0; round < rounds; round++) {
        const before = await redis.keys('*');
        const used = /used_memory:(\d+)/.exec(await redis.info('memory'))?.[1];
        await redis.config('SET', 'maxmemory', String(Number(used) - world.random.int(500, 3000)));
        // It evicts keys when it needs memory for a write.
        await redis.set('filler', 'x').catch(() => {});
        await redis.config('SET', 'maxmemory', '0');
        const after = new Set(await redis.keys('*'));
        for (const key of before) {
          if (!after.has(key)) hit.set(kindOf(key), (hit.get(kindOf(key)) ?? 0) + 1);
        }
        await redis.unlink('filler');
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      // A room that is neither in prs:active_rooms nor in the due index any more is restored by the
      // next join (docs/reference/guarantees.md): connection ci is in room ri.
      for (const [i, roomId] of ROOMS.entries()) {
        const connId = `c${i}`;
        await world.node().join({ roomId, userId: `u${i}`, connId, snapshot: false });
      }
      // The last round does not depend on chance: the earlier ones may have evicted nothing that
      // needs a repair.
      await redis.unlink('prs:{room:r0}:members');
      console.log('evicted:', Object.fromEntries(hit));
      await restored(world, off);
      await stop();
      await world.converged({ withinMs: 4000 });
      await world.emptied();
    },
  );
});

describe('4: keys of locks that are evicted', () => {
  const second = { ownerId: 'second', waitMs: 20_000 };

  for (const key of ['prs:lock:l', 'prs:{prs:lock:l}:holder']) {
    proven(`${key}: its holder is notified`, { without: 'renewing' }, async () => {
      const world = await startWorld({ nodes: 2 });
      const ttlMs = 3000;
      // A node checks its locks when it starts to listen for losses: this happens first.
      const before = await world.node().locks.acquire('before', { ownerId: 'first' });
      await eventually(async () => {
        expect(await world.redis.pubsub('CHANNELS', 'prs:lock_wake:*')).toHaveLength(1);
      });
      await before?.release();
      const held = await world.node().locks.acquire('l', { ownerId: 'first', ttlMs });
      let lostAt = Number.POSITIVE_INFINITY;
      held.lost.addEventListener('abort', () => {
        lostAt = Date.now();
      });
      const ends = held.expiresAt;
      expect(await world.redis.unlink(key)).toBe(1);
      // By its next renewal, and not at the end of the lease.
      await eventually(() => expect(held.lost.aborted).toBe(true));
      expect(lostAt).toBeLessThan(ends - ttlMs / 10);
      const next = await world.node(1).locks.acquire('l', second);
      expect(next?.fencingToken).toBeGreaterThan(held.fencingToken);
      await next?.release();
    });
  }

  for (const key of [
    'prs:{prs:lock:l}:token',
    'prs:{prs:lock:l}:queue',
    'prs:{prs:lock:l}:living',
    'prs:lock_due',
  ]) {
    proven(
      `${key}: it stays held, and the next waiter gets it`,
      { without: 'renewing' },
      async () => {
        const world = await startWorld({ nodes: 2 });
        const ttlMs = 1000;
        const [node, other] = [world.node(), world.node(1)];
        const held = await node.locks.acquire('l', { ownerId: 'first', ttlMs });
        let granted = false;
        const next = other.locks.acquire('l', second).finally(() => {
          granted = true;
        });
        await eventually(async () => expect((await node.locks.inspect('l'))?.waiters).toBe(1));
        expect(await world.redis.unlink(key)).toBe(1);
        const evicted = performance.now();
        await eventually(() => performance.now() - evicted > 1.5 * ttlMs);
        expect([held.lost.aborted, granted]).toEqual([false, false]);
        await held.release();
        const lock = await next;
        expect(lock.fencingToken).toBeGreaterThan(held.fencingToken);
        await lock.release();
      },
    );
  }
});
