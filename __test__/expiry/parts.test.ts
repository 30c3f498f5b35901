// Spec 6.7: a failing shard, master, room or lock never blocks the others.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type AnyState, type Client, record, silent } from '../conformance/stores.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { leavesOf } from './expiry.js';

const TTL_MS = 500;

async function connect(url: string, options: object = {}): Promise<Client> {
  const client: Client = await PresenceClient.connect<AnyState>({
    url,
    ttlMs: TTL_MS,
    sweepIntervalMs: 100,
    fallbackSweepMs: 200,
    logger: silent,
    ...options,
  });
  onTestFinished(() => client.close());
  return client;
}

async function start() {
  const server = await startRedis();
  onTestFinished(() => server[Symbol.asyncDispose]());
  return { server, redis: await server.client() };
}

const names = (events: { connId: string }[]) => events.map(({ connId }) => connId).sort();

test('6.7 one of three masters is stopped: dead connections of the other two are announced once', {
  timeout: 60_000,
}, async () => {
  const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  onTestFinished(() => cluster[Symbol.asyncDispose]());
  const client = await connect(cluster.url);
  const recorder = await record(client);
  const stopped = await cluster.ownerOf('{room:r0}');
  const healthy: string[] = [];
  for (let i = 0; i < 30; i++) {
    const connId = `c${i}`;
    // A room waits if its due index is on the stopped master.
    const keys = [`{room:r${i}}`, shardOf(`r${i}`)];
    const owners = await Promise.all(keys.map((key) => cluster.ownerOf(key)));
    if (owners.every((owner) => owner !== stopped)) healthy.push(connId);
    const place = { roomId: `r${i}`, userId: `u${i}`, connId, snapshot: false };
    // A client of a cluster can be open before all of its masters are reachable.
    await eventually(() => client.join(place).then(() => true));
  }
  expect(healthy.length).toBeGreaterThan(0);
  expect(healthy.length).toBeLessThan(30);
  stopped.pause();
  onTestFinished(() => stopped.resume());
  await client.startReaper();
  await eventually(
    () => expect(names(leavesOf(recorder.events))).toEqual(expect.arrayContaining(healthy)),
    { timeoutMs: 30_000 },
  );
  expect(client.metrics().sweepsFailed).toBeGreaterThan(0);
  stopped.resume();
  await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(30), {
    timeoutMs: 20_000,
  });
});

/** The shard of the due index that contains a room. */
function shardOf(roomId: string): string {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(roomId)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return `prs:due:${hash % 10}`;
}

/** Keys that may have a wrong type. */
const SPOILED: [layout: 'v1' | 'slotted', key: string][] = [
  ['v1', 'prs:conn:c0'],
  ['v1', 'prs:conn:c0:state'],
  ['v1', 'prs:{room:r0}:conns'],
  ['v1', 'prs:{room:r0}:members'],
  ['v1', 'prs:{room:r0}:last_seen'],
  ['v1', 'prs:{room:r0}:conn_meta'],
  ['v1', 'prs:user:u0:conns'],
  ['v1', 'prs:user:u0:rooms'],
  ['v1', 'prs:active_rooms'],
  ['v1', 'prs:lock:l'],
  ['v1', 'prs:{prs:lock:l}:token'],
  ['v1', 'prs:{prs:lock:l}:holder'],
  ['v1', 'prs:{prs:lock:l}:queue'],
  ['v1', 'prs:{prs:lock:l}:living'],
  ['v1', 'prs:lock_due'],
  ['slotted', 'prs:{room:r0}:conn:c0'],
  ['slotted', 'prs:{room:r0}:conns'],
  ['slotted', 'prs:{room:r0}:members'],
  ['slotted', 'prs:{room:r0}:last_seen'],
  ['slotted', 'prs:{room:r0}:conn_meta'],
  ['slotted', 'prs:{room:r0}:unsettled'],
  ['slotted', 'prs:at:c0'],
  ['slotted', 'prs:user:u0:at'],
  ['slotted', 'prs:{lock:l}'],
  ['slotted', 'prs:{lock:l}:holder'],
  ['slotted', 'prs:lock_due'],
];

async function spoil(redis: Redis, key: string): Promise<void> {
  await redis.multi().unlink(key).rpush(key, 'not ours').exec();
}

describe('6.7 a key of another type', () => {
  test.each(SPOILED)('%s, %s: affects only its own part', async (layout, key) => {
    const { server, redis } = await start();
    const client = await connect(server.url, { layout });
    const recorder = await record(client);
    await client.locks.acquire('l', { ownerId: 'ada', ttlMs: 200, autoRenew: false });
    for (let i = 0; i < 12; i++) {
      await client.join({ roomId: `r${i}`, userId: `u${i}`, connId: `c${i}`, snapshot: false });
    }
    // The room of the key has a second connection, of another user.
    await client.join({ roomId: 'r0', userId: 'other', connId: 'other', snapshot: false });
    await spoil(redis, key);
    const others = Array.from({ length: 11 }, (_, i) => `c${i + 1}`);
    // Keys of one user or connection, and keys that all rooms share, affect no room.
    if (!key.includes('{room:r0}')) others.push('other');
    if (!key.includes('r0') && !/conn:c0$|at:c0$/.test(key)) others.push('c0');
    await client.startReaper();
    await eventually(() =>
      expect(names(leavesOf(recorder.events))).toEqual(expect.arrayContaining(others)),
    );
    await expect(client.reapOnce()).resolves.toMatchObject({ expired: expect.any(Number) });
    await eventually(() => {
      expect(client.metrics().sweeps).toBeGreaterThan(3);
      expect(client.metrics().expired).toBeGreaterThanOrEqual(others.length);
    });
    expect(client.metrics().sweepsFailed).toBe(0);
    const leaves = names(leavesOf(recorder.events));
    expect(new Set(leaves).size).toBe(leaves.length);
  });
});

test('6.7 one of the lock servers hangs: passes continue, and dead connections are announced', {
  timeout: 30_000,
}, async () => {
  const { server } = await start();
  const lockServers = await Promise.all([start(), start(), start()]);
  const client = await connect(server.url, {
    locks: { urls: lockServers.map((one) => one.server.url) },
  });
  const recorder = await record(client);
  const [hanging] = lockServers;
  hanging?.server.pause();
  onTestFinished(() => hanging?.server.resume());
  await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
  await client.startReaper();
  await eventually(() => expect(names(leavesOf(recorder.events))).toEqual(['c']));
  await expect(client.reapOnce()).resolves.toMatchObject({ expired: 0 });
  await eventually(() => expect(client.metrics().sweeps).toBeGreaterThan(5));
  expect(client.metrics().sweepsFailed).toBe(0);
});

test.each(['v1', 'slotted'] as const)(
  '6.4 %s: a connection with a separate state causes one notification',
  async (layout) => {
    const { server, redis } = await start();
    const client = await connect(server.url, {
      layout,
      expiry: 'notifications',
      stateStorage: 'separate',
    });
    const recorder = await record(client);
    await client.startReaper();
    await eventually(async () => {
      const [, flags = ''] = (await redis.config('GET', 'notify-keyspace-events')) as string[];
      expect(flags).toMatch(/E.*x|x.*E/);
    });
    // Another subscriber sees the expiry of both keys.
    const keys: string[] = [];
    const listener = await server.client();
    await listener.subscribe('__keyevent@0__:expired');
    listener.on('message', (_, key: string) => void keys.push(key));
    await client.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1 } });
    // The key of the state expires before anything removes it.
    await redis.pexpire(layout === 'v1' ? 'prs:conn:c:state' : 'prs:{room:r}:conn:c:state', 50);
    await eventually(() => expect(leavesOf(recorder.events)).toHaveLength(1));
    await eventually(() => expect(keys.filter((key) => key.endsWith(':state'))).toHaveLength(1));
    await eventually(() => expect(client.metrics().notifications).toBeGreaterThan(0));
    expect(client.metrics().notifications).toBe(1);
  },
);
