// Spec 8.4 on Redis: notifications after a release, and waiters whose process dies or whose
// messages are lost.
import type { Redis } from 'ioredis';
import { expect, onTestFinished, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { openClient } from '../support/clients.js';
import { startFixture } from '../support/process.js';
import type { RedisServer } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';
import { useSharedDb } from './db.js';

const ADA = { ownerId: 'ada' };

let server: RedisServer;
let url: string;
let redis: Redis;

useSharedDb((db) => {
  ({ server, url, redis } = db);
});

async function waiting(waiters: number): Promise<void> {
  await eventually(async () => {
    expect(await redis.zcard('prs:{prs:lock:l}:queue')).toBe(waiters);
  });
}

test('8.4 a release wakes only the next waiter', async () => {
  const holder = await openClient(url);
  const client = await openClient(url);
  const lock = await holder.locks.acquire('l', ADA);
  const all = Array.from({ length: 20 }, async (_, i) => {
    const held = await client.locks.acquire('l', { ownerId: `w${i}`, waitMs: 20_000 });
    await held.release();
  });
  await waiting(20);
  const monitor = await redis.duplicate().monitor();
  onTestFinished(() => monitor.disconnect());
  const turns: string[] = [];
  let calls = 0;
  monitor.on('monitor', (_time: string, [command = '', ...args]: string[]) => {
    if (/publish/i.test(command) && args[1]?.startsWith('turn')) turns.push(args[1]);
    // Only acquire and release are called here; both have the lock as their first key.
    if (/evalsha/i.test(command) && args[2] === 'prs:lock:l') calls++;
  });
  await lock.release();
  await Promise.all(all);
  await redis.ping();
  await eventually(() => turns.length >= 20);
  // Each waiter was notified once. Besides one release and one acquire for each, there is only the
  // refresh of the first waiter, at most one in 0.4 s.
  expect(new Set(turns).size).toBe(20);
  expect(turns.length).toBeLessThanOrEqual(25);
  expect(calls).toBeLessThanOrEqual(20 + 21 + 25);
});

test('8.4 a waiter whose process is killed does not block the queue', async () => {
  const client = await openClient(url);
  const lock = await client.locks.acquire('l', ADA);
  const child = startFixture('locks/fixtures/contender.mjs', {
    args: [JSON.stringify({ url, name: 'l', contenders: 3, label: 'dead', ttlMs: 60_000 })],
  });
  onTestFinished(async () => {
    await child.kill();
  });
  await waiting(3);
  const next = client.locks.acquire('l', { ownerId: 'bob', waitMs: 20_000 });
  await waiting(4);
  await child.kill();
  await lock.release();
  await (await next).release();
  expect(await redis.keys('*')).toEqual(['prs:{prs:lock:l}:token']);
});

test('8.4 a waiter gets the lock even if its wake-up message is lost', async () => {
  const holder = await openClient(url);
  const client = await openClient(url);
  const lock = await holder.locks.acquire('l', ADA);
  const next = client.locks.acquire('l', { ownerId: 'bob', waitMs: 20_000 });
  await waiting(1);
  // No client can receive messages: their connections are closed at the moment of the release.
  await eventually(async () => {
    expect(Number(await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'))).toBeGreaterThan(0);
  });
  await Promise.all([redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'), lock.release()]);
  await (await next).release();
});

test('8.4 waiters without permission to subscribe get the lock, too', async () => {
  await redis.call('ACL', 'SETUSER', 'noevents', 'on', '>pw', '~prs:*', '+@all', 'resetchannels');
  onTestFinished(async () => {
    const admin = await server.client();
    await admin.call('ACL', 'DELUSER', 'noevents');
    admin.disconnect();
  });
  await redis.call('ACL', 'SETUSER', 'noevents', '&prs:{prs:lock:l}:lock_events');
  const { pathname } = new URL(url);
  const withoutEvents = `redis://noevents:pw@${server.host}:${server.port}${pathname}`;
  const holder = await openClient(url);
  const client = await openClient(withoutEvents);
  const lock = await holder.locks.acquire('l', ADA);
  const next = client.locks.acquire('l', { ownerId: 'bob', waitMs: 20_000 });
  await waiting(1);
  await lock.release();
  await (await next).release();
});

test('8.4 living waiters that were removed keep their places', async () => {
  const holder = await openClient(url);
  const client = await openClient(url);
  const lock = await holder.locks.acquire('l', ADA);
  const order: string[] = [];
  const all = ['a', 'b', 'c'].map(async (ownerId, i) => {
    const held = await client.locks.acquire('l', { ownerId, waitMs: 20_000 });
    order.push(ownerId);
    await held.release();
    return i;
  });
  await waiting(3);
  // Like a node without a sign of life for too long, while the queue has moved on.
  await redis.del('prs:{prs:lock:l}:queue', 'prs:{prs:lock:l}:living');
  const late = holder.locks.acquire('l', { ownerId: 'late', waitMs: 20_000 }).then(async (held) => {
    order.push('late');
    await held.release();
  });
  await waiting(4);
  await lock.release();
  await Promise.all([...all, late]);
  expect(order).toEqual(['a', 'b', 'c', 'late']);
});

test('8.7 a holder is notified of a revocation that happened before it subscribed or while it was disconnected', async () => {
  const client = await openClient(url);
  const operator = await openClient(url);
  // The first lock of a client: it subscribes only now.
  const first = await client.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  await operator.locks.revoke('l');
  await within(fired(first.lost), 10_000, 'lost');
  const second = await client.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  await Promise.all([redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub'), operator.locks.revoke('l')]);
  await within(fired(second.lost), 10_000, 'lost');
});

test('8.4 a waiter whose call failed asks again, even behind others of its node', async () => {
  const holder = await openClient(url);
  const client = await openClient(url);
  const late = await openClient(url);
  const lock = await holder.locks.acquire('l', ADA);
  const order: string[] = [];
  const wait = async (by: typeof client, ownerId: string) => {
    const held = await by.locks.acquire('l', { ownerId, waitMs: 20_000 });
    order.push(ownerId);
    await held.release();
  };
  const all = [wait(client, 'first')];
  await waiting(1);
  // The second call is refused, and the connection stays open.
  const before = (await redis.info('errorstats')).match(/errorstat_OOM:count=(\d+)/)?.[1] ?? '0';
  await redis.config('SET', 'maxmemory', '1');
  all.push(wait(client, 'second'));
  await eventually(async () => {
    const now = (await redis.info('errorstats')).match(/errorstat_OOM:count=(\d+)/)?.[1] ?? '0';
    expect(Number(now)).toBeGreaterThan(Number(before));
  });
  await redis.config('SET', 'maxmemory', '0');
  await waiting(2);
  all.push(wait(late, 'third'));
  await waiting(3);
  await lock.release();
  await Promise.all(all);
  expect(order).toEqual(['first', 'second', 'third']);
});
