// Migration from `v1` on one Redis to a cluster, as in docs/operations/cluster.md: each server has
// two clients for one TTL.
import { PresenceClient } from 'rollcall';
import { expect, onTestFinished, test } from 'vitest';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { sharedDb } from '../support/redis.js';
import { eventually } from '../support/wait.js';

test('a migration from v1 on one Redis to a cluster keeps every online user visible', async () => {
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const { server, db, url } = await sharedDb();
  const ttlMs = 3_000;
  const connect = async (of: string) => {
    const client = await PresenceClient.connect({ url: of, ttlMs, logger: {} });
    onTestFinished(() => client.close());
    await client.startReaper();
    return client;
  };
  // Two servers with their own sockets. Up to here they use the old client only.
  const servers = await Promise.all(
    ['a', 'b'].map(async (name) => ({
      name,
      old: await connect(url),
      next: undefined as PresenceClient | undefined,
      conns: Array.from({ length: 5 }, (_, i) => `${name}${i}`),
    })),
  );
  type Server = (typeof servers)[number];
  const join = { roomId: 'lobby', state: { here: true }, snapshot: false };
  for (const { old, conns } of servers) {
    for (const connId of conns) await old.join({ ...join, userId: connId, connId });
  }
  const everybody = servers.flatMap(({ conns }) => conns).sort();
  /** The online users that a server sees during the migration, on either side. */
  const online = async ({ old, next }: Server) => {
    const sides = [old, ...(next ? [next] : [])];
    const found = await Promise.all(sides.map((side) => side.fetchRoomSnapshot('lobby')));
    return [...new Set(found.flat().map(({ connId }) => connId))].sort();
  };

  // One server after the other: from now on it joins and sends heartbeats on both sides, and reads
  // both.
  for (const server of servers) {
    server.next = await connect(cluster.url);
    for (const connId of server.conns) {
      await server.next.join({ ...join, userId: connId, connId });
    }
    for (const each of servers) {
      for (const connId of each.conns) {
        await each.old.heartbeat({ connId });
        await each.next?.heartbeat({ connId });
      }
      expect(await online(each)).toEqual(everybody);
    }
  }
  // Both servers use both sides: the old side is closed, and its connections expire.
  for (const { next, conns } of servers) {
    for (const connId of conns) await next?.heartbeat({ connId });
    const snapshot = (await next?.fetchRoomSnapshot('lobby')) ?? [];
    expect(snapshot.map(({ connId }) => connId).sort()).toEqual(everybody);
    expect(snapshot.every(({ state }) => (state as { here?: boolean })?.here)).toBe(true);
  }
  await eventually(async () => expect(await server.dbsize(db)).toBe(0), { timeoutMs: 10_000 });
});
