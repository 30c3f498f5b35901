// Connecting to a cluster and with the layout `slotted`, and the keys that they use.
import { PresenceClient } from 'rollcall';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openClient, rejection } from '../support/clients.js';
import { type RedisCluster, startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { type RedisServer, sharedRedis, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

describe('connecting', () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  });
  afterAll(() => cluster[Symbol.asyncDispose]());

  test('layout "v1" on a cluster is refused', async () => {
    const error = await rejection(() =>
      PresenceClient.connect({ url: cluster.url, layout: 'v1', logger: {} }),
    );
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(error.message).toContain('layout');
  });

  test('redis:// to a server of a cluster is refused, and the message names the right URL', async () => {
    const url = cluster.servers[0]?.url ?? '';
    const error = await rejection(() => PresenceClient.connect({ url, logger: {} }));
    expect(error).toMatchObject({ code: 'UNSUPPORTED' });
    expect(error.message).toContain('redis-cluster://');
  });

  test('redis-cluster:// to a single server is refused, and the message names the right URL', async () => {
    const { port } = await sharedRedis();
    const url = `redis-cluster://127.0.0.1:${port}`;
    const error = await rejection(() => PresenceClient.connect({ url, logger: {} }));
    expect(error).toMatchObject({ code: 'UNSUPPORTED' });
    expect(error.message).toContain('redis://');
  });

  test('one reachable server of the URL is enough', async () => {
    const port = cluster.servers[1]?.port;
    const client = await openClient(`redis-cluster://127.0.0.1:1,127.0.0.1:${port}`);
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    expect(await client.fetchRoomSnapshot('r')).toHaveLength(1);
    await client.leave('c');
  });

  test('a keyPrefix that disables hash tags is refused', async () => {
    for (const url of [cluster.url, (await sharedRedis()).url]) {
      const error = await rejection(() =>
        PresenceClient.connect({ url, layout: 'slotted', keyPrefix: 'a{}:', logger: {} }),
      );
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' });
      expect(error.message).toContain('keyPrefix');
    }
  });

  test('rooms are distributed over all masters, each with all of its keys', async () => {
    const client = await openClient(cluster.url);
    for (let i = 0; i < 60; i++) {
      await client.join({ roomId: `r${i}`, userId: 'u', connId: `c${i}`, snapshot: false });
    }
    for (const master of await cluster.masters()) {
      const keys = await (await cluster.on(master)).keys('prs:{room:*');
      expect(keys.length).toBeGreaterThan(30);
      // conn, conns, members, last_seen, conn_meta, user.
      expect(keys.length % 6).toBe(0);
    }
    expect((await client.getUserPresence('u')).rooms).toHaveLength(60);
    for (let i = 0; i < 60; i++) await client.leave(`c${i}`);
    await eventually(async () => expect(await cluster.keys()).toEqual([]));
  });

  test.each(['sharded', 'plain'] as const)('events by %s pub/sub', async (pubsub) => {
    const client = await openClient({ url: cluster.url, pubsub });
    const [all, one]: [string[], string[]] = [[], []];
    await client.subscribe((event) => void all.push(`${event.type} ${event.roomId}`));
    await client.subscribe((event) => void one.push(`${event.type} ${event.roomId}`), {
      roomId: 'r1',
    });
    for (let i = 0; i < 20; i++) {
      await client.join({ roomId: `r${i}`, userId: 'u', connId: `c${i}`, snapshot: false });
      await client.leave(`c${i}`);
    }
    await eventually(() => {
      expect(all).toHaveLength(40);
      expect(one).toEqual(['join r1', 'leave r1']);
    });
    expect(client.metrics().eventsMalformed).toBe(0);
  });
});

test('user, password and TLS apply to all servers', async () => {
  const cluster = await startCluster({
    replicas: 0,
    nodeTimeoutMs: UNHURRIED_MS,
    server: { users: { app: 'on >s3cret ~* &* +@all' } },
  });
  try {
    const hosts = cluster.servers.map(({ port }) => `127.0.0.1:${port}`).join(',');
    const client = await openClient(`redis-cluster://app:s3cret@${hosts}`);
    for (let i = 0; i < 20; i++) {
      await client.join({ roomId: `r${i}`, userId: 'u', connId: `c${i}` });
    }
    expect((await client.getUserPresence('u')).rooms).toHaveLength(20);
    const error = await rejection(() =>
      PresenceClient.connect({ url: `redis-cluster://app:wrong@${hosts}`, logger: {} }),
    );
    expect(error).toMatchObject({ code: 'PERMISSION' });
  } finally {
    await cluster[Symbol.asyncDispose]();
  }
});

describe('the reaper', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server[Symbol.asyncDispose]());

  test('lost indices are rebuilt within one fallback sweep', async () => {
    const options = { url: server.url, layout: 'slotted', fallbackSweepMs: 400 } as const;
    const client = await openClient({ ...options, ttlMs: 60_000 });
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const redis = await server.client();
    // A failover can lose the due index, and with it every reference to the room.
    await redis.del(...(await redis.keys('prs:due:*')));
    await client.startReaper();
    await eventually(async () => expect(await redis.keys('prs:due:*')).toHaveLength(1));
    // An outbox entry that was not applied, as after a crash, and the connection of that entry.
    const [epoch] = [(await redis.hget('prs:{room:r}:conn:c', 'epoch')) ?? ''];
    await redis.del('prs:at:c', 'prs:user:u:at');
    await redis.hset('prs:{room:r}:unsettled', `${epoch}:c`, '+u');
    await eventually(async () => {
      expect(await redis.hgetall('prs:at:c')).toEqual({ 's:r': `${epoch}:u` });
      expect(await redis.hgetall('prs:user:u:at')).toEqual({ c: `${epoch}:r` });
      expect(await redis.exists('prs:{room:r}:unsettled')).toBe(0);
    });
    await client.leave('c');
    await eventually(async () => expect(await redis.keys('*')).toEqual([]));
  });

  test('connections that a failover restored to rooms that they had left are removed', async () => {
    const options = { url: server.url, layout: 'slotted', ttlMs: 60_000 } as const;
    const client = await openClient(options);
    const redis = await server.client();
    const conns = Array.from({ length: 10 }, (_, i) => `c${i}`);
    for (const [i, connId] of conns.entries()) {
      await client.join({ roomId: `old${i}`, userId: 'u', connId });
    }
    const kept: [string, Buffer][] = [];
    for (const key of await redis.keys('prs:*')) {
      if (/\{room:old/.test(key) || key.startsWith('prs:at:')) {
        kept.push([key, await redis.dumpBuffer(key)]);
      }
    }
    for (const [i, connId] of conns.entries()) {
      await client.join({ roomId: `new${i}`, userId: 'u', connId });
    }
    // The last writes of their master are lost.
    for (const [key, data] of kept) await redis.restore(key, 60_000, data, 'REPLACE');
    const before = await client.fetchRoomSnapshot('old0');
    expect(before.map(({ connId }) => connId)).toEqual(['c0']);

    const reasons: string[] = [];
    await client.subscribe((event) => {
      if (event.type === 'leave') reasons.push(`${event.roomId} ${event.reason}`);
    });
    // The first check of all shards is a full check.
    const judge = await openClient({ ...options, fallbackSweepMs: 1000 });
    await judge.startReaper();
    const expected = conns.map((_, i) => `old${i} replaced`);
    await eventually(() => expect(reasons.sort()).toEqual(expected), { timeoutMs: 8000 });
    await eventually(async () => {
      for (const [i, connId] of conns.entries()) {
        expect(await client.fetchRoomSnapshot(`old${i}`)).toEqual([]);
        expect(await redis.hkeys(`prs:at:${connId}`)).toEqual([`s:new${i}`]);
      }
    });
    for (const connId of conns) await client.leave(connId);
    await eventually(async () => expect(await redis.keys('*')).toEqual([]));
  });
});
