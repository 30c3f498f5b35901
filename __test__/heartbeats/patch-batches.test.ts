// Patches of many connections in one script call (lua/*/patch_batch.lua). What the script cannot write, and what
// it must not write, fails or is merged anew by itself (spec 5.3).
import type { Redis } from 'ioredis';
import { describe, expect, onTestFinished, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { startCluster } from '../support/cluster.js';
import { commandCalls } from '../support/command-stats.js';
import { startRedis } from '../support/redis.js';

const LAYOUTS = ['v1', 'slotted'] as const;

async function calls(admin: Redis, name: string): Promise<number> {
  return (await commandCalls(admin))[name] ?? 0;
}

async function open(layout: (typeof LAYOUTS)[number], url?: string) {
  const server = await startRedis();
  onTestFinished(() => server[Symbol.asyncDispose]());
  const admin = await server.client();
  const client = await openClient({ url: url ?? server.url, layout, ttlMs: 600_000 });
  /** Joins `count` connections, five to a room. */
  const joinAll = (count: number) =>
    Promise.all(
      Array.from({ length: count }, async (_, i) => {
        const connId = `c${i}`;
        const place = { roomId: `r${Math.floor(i / 5)}`, userId: `u${i}` };
        const { epoch } = await client.join({ ...place, connId, state: { n: 0 }, snapshot: false });
        return { connId, epoch };
      }),
    );
  /** The key of a connection, on each layout. */
  const keyOf = async (connId: string): Promise<string> => {
    const [key] = (await admin.keys(`*conn:${connId}`)) as [string];
    return key;
  };
  return { server, admin, client, joinAll, keyOf };
}

type Joined = { connId: string; epoch: number };

function patchAll(client: Untyped, items: Joined[], n: number) {
  const patched = items.map(({ connId, epoch }) => ({ connId, epoch, patchState: { n } }));
  return client.heartbeatMany(patched);
}

describe.each(LAYOUTS)('5.3 a batch of patches (%s)', (layout) => {
  test('is one script call, with an event for each that changes its state', async () => {
    const { admin, client, joinAll } = await open(layout);
    const items = await joinAll(100);
    await admin.config('RESETSTAT');
    expect(await patchAll(client, items, 1)).toEqual(
      items.map(({ epoch }) => ({ changed: true, epoch })),
    );
    expect([await calls(admin, 'evalsha'), await calls(admin, 'publish')]).toEqual([1, 100]);
    // The second time, nothing changes.
    expect(await patchAll(client, items, 1)).toEqual(
      items.map(({ epoch }) => ({ changed: false, epoch })),
    );
    expect([await calls(admin, 'evalsha'), await calls(admin, 'publish')]).toEqual([2, 100]);
  });

  test('128 items of heartbeatMany cross together, whatever the characters of ids and patches', async () => {
    const { admin, client } = await open(layout);
    const items = await Promise.all(
      Array.from({ length: 128 }, async (_, i) => {
        const connId = ['c', 'é', '房', '😀'][i % 4] + String(i);
        const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId, snapshot: false });
        return { connId, epoch };
      }),
    );
    await admin.config('RESETSTAT');
    const values = ['a', 'é', '房', '😀\u2028', '\ud800'];
    const patched = items.map(({ connId, epoch }, i) => {
      const value = values[i % values.length];
      return { connId, epoch, patchState: { [`k${value}`]: value, gone: undefined } };
    });
    await client.heartbeatMany(patched);
    expect(await calls(admin, 'evalsha')).toBe(1);
    const { connections } = await client.getUserPresence('u');
    const states = new Map(connections.map(({ connId, state }) => [connId, state]));
    for (const { connId, patchState } of patched) {
      expect(states.get(connId)).toEqual(JSON.parse(JSON.stringify(patchState)));
    }
  });

  test('another state, epoch or form of one connection costs the others nothing', async () => {
    const { server, admin, client, joinAll, keyOf } = await open(layout);
    const items = await joinAll(10);
    await patchAll(client, items, 1);
    // Two by another node, one written past all nodes, one that has left, one that is no hash.
    const other = await openClient({ url: server.url, layout, ttlMs: 600_000 });
    await other.heartbeat({ connId: 'c0', patchState: { other: true } });
    const rejoined = await other.join({
      roomId: 'r9',
      userId: 'u1',
      connId: 'c1',
      state: { n: 7 },
    });
    await admin.hset(await keyOf('c2'), 'state', '{"raw":[ ]}');
    await other.leave('c3');
    const broken = await keyOf('c4');
    await admin.del(broken);
    await admin.set(broken, 'no hash');
    const results = await patchAll(client, items, 2);
    expect(results[0]).toEqual({ changed: true, epoch: items[0]?.epoch });
    expect(results[1]).toMatchObject({ code: 'STALE_EPOCH' });
    expect(results[2]).toEqual({ changed: true, epoch: items[2]?.epoch });
    expect(results[3]).toMatchObject({ code: 'CONNECTION_NOT_FOUND' });
    expect(results[4]).toMatchObject({ code: 'CORRUPT_DATA' });
    for (const i of [5, 6, 7, 8, 9]) {
      expect(results[i]).toEqual({ changed: true, epoch: items[i]?.epoch });
    }
    await admin.del(broken);
    expect(await admin.hget(await keyOf('c0'), 'state')).toBe('{"n":2,"other":true}');
    expect(await admin.hget(await keyOf('c2'), 'state')).toBe('{"raw":[ ],"n":2}');
    const [left] = (await other.getUserPresence('u1')).connections;
    expect(left).toMatchObject({ roomId: 'r9', state: { n: 7 }, epoch: rejoined.epoch });
  });

  test('a room whose last_seen is of another type fails alone', async () => {
    const { admin, client, joinAll } = await open(layout);
    const items = await joinAll(10);
    await patchAll(client, items, 1);
    const [lastSeen] = (await admin.keys('*room:r0}:last_seen')) as [string];
    await admin.del(lastSeen);
    await admin.set(lastSeen, 'no sorted set');
    const results = await patchAll(client, items, 2);
    for (const [i, result] of results.entries()) {
      if (i < 5) expect(result).toMatchObject({ code: 'CORRUPT_DATA' });
      else expect(result).toEqual({ changed: true, epoch: items[i]?.epoch });
    }
  });

  test('without the right to publish to a room, nothing in it changes, and others do', async () => {
    const { server, admin, joinAll, keyOf } = await open(layout);
    const items = await joinAll(10);
    await admin.call('ACL', 'SETUSER', 'node', 'on', '>secret', '~*', '+@all', '&*');
    const url = server.url.replace('redis://', 'redis://node:secret@');
    const limited = await openClient({ url, layout, ttlMs: 600_000 });
    await patchAll(limited, items, 1);
    await admin.call('ACL', 'SETUSER', 'node', 'resetchannels', '&prs:{room:r1}:*');
    const results = await patchAll(limited, items, 2);
    for (const [i, result] of results.entries()) {
      if (i < 5) expect(result).toMatchObject({ code: 'PERMISSION' });
      else expect(result).toEqual({ changed: true, epoch: items[i]?.epoch });
      const state = `{"n":${i < 5 ? 1 : 2}}`;
      expect(await admin.hget(await keyOf(`c${i}`), 'state')).toBe(state);
    }
  });

  test('on a server without memory, no patch is written and no event is sent', async () => {
    const { admin, client, joinAll, keyOf } = await open(layout);
    const items = await joinAll(10);
    await patchAll(client, items, 1);
    await admin.config('SET', 'maxmemory', '1');
    await admin.config('RESETSTAT');
    const results = await patchAll(client, items, 2);
    expect(await calls(admin, 'publish')).toBe(0);
    await admin.config('SET', 'maxmemory', '0');
    for (const [i, result] of results.entries()) {
      expect(result).toBeInstanceOf(Error);
      expect(await admin.hget(await keyOf(`c${i}`), 'state')).toBe('{"n":1}');
    }
  });

  test('more patches than a script may take are several calls', async () => {
    const { admin, client, joinAll } = await open(layout);
    const items = await joinAll(8);
    const large = 'x'.repeat(60_000);
    const patch = (n: number) =>
      Promise.all(
        items.map(({ connId, epoch }) =>
          client.heartbeat({ connId, epoch, patchState: { large, n } }),
        ),
      );
    await patch(1);
    await admin.config('RESETSTAT');
    for (const result of await patch(2)) expect(result.changed).toBe(true);
    // The states of two patches, before and after them, have 240 KB; those of three would exceed 256 KB. Patches
    // that cross apart may be sent apart.
    const count = await calls(admin, 'evalsha');
    expect(count).toBeGreaterThanOrEqual(items.length / 2);
    expect(count).toBeLessThanOrEqual(items.length);
  });
});

test('5.3 on a cluster, a batch of patches is one call for each room', async () => {
  await using cluster = await startCluster();
  const client = await openClient({ url: cluster.url, ttlMs: 600_000 });
  const items = await Promise.all(
    Array.from({ length: 30 }, async (_, i) => {
      const connId = `c${i}`;
      const place = { roomId: `r${i % 3}`, userId: 'u' };
      const { epoch } = await client.join({ ...place, connId, state: { n: 0 }, snapshot: false });
      return { connId, epoch };
    }),
  );
  await patchAll(client, items, 1);
  const masters = await cluster.masters();
  const admins = await Promise.all(masters.map((master) => cluster.on(master)));
  await Promise.all(admins.map((admin) => admin.config('RESETSTAT')));
  for (const result of await patchAll(client, items, 2))
    expect(result).toMatchObject({ changed: true });
  const counts = await Promise.all(admins.map((admin) => calls(admin, 'evalsha')));
  expect(counts.reduce((sum, count) => sum + count, 0)).toBe(3);
});
