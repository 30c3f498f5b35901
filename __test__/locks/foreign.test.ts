// Spec 8.2: locks that are shared with implementations that know only `prs:lock:<name>`.
import type { Redis } from 'ioredis';
import type { Lock } from 'rollcall';
import { expect, test } from 'vitest';
import { brief, fired, recordLocks } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { useSharedDb } from './db.js';

const KEY = 'prs:lock:l';
const ADA = { ownerId: 'ada' };
const CHANNEL = { channelType: 'doc', channelName: 'd' };

let url: string;
let redis: Redis;

useSharedDb((db) => {
  ({ url, redis } = db);
});

test('8.2 a plain GET reads a lock of Rollcall: the owner’s id, with a TTL', async () => {
  const client = await openClient(url);
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 5_000 });
  expect(await redis.get(KEY)).toBe('ada');
  const ttl = await redis.pttl(KEY);
  expect(ttl).toBeGreaterThan(0);
  expect(ttl).toBeLessThanOrEqual(5_000);
  expect(await redis.set(KEY, 'bob', 'PX', 1_000, 'NX')).toBeNull();
  await lock.release();
  expect(await redis.get(KEY)).toBeNull();
});

test('8.3 other implementations can read the newest token, in decimal digits', async () => {
  const client = await openClient(url);
  for (let i = 0; i < 3; i++) {
    const lock = await client.locks.acquire('l', ADA);
    expect(await redis.get('prs:{prs:lock:l}:token')).toBe(String(lock.fencingToken));
    await lock.release();
    expect(await redis.get('prs:{prs:lock:l}:token')).toBe(String(lock.fencingToken));
  }
  const left = await redis.pttl('prs:{prs:lock:l}:token');
  expect(left).toBeGreaterThan(6 * 24 * 3600 * 1000);
  expect(left).toBeLessThan(8 * 24 * 3600 * 1000);
});

test('8.2: a lock written by a plain SET blocks acquire until it expires', async () => {
  const client = await openClient(url);
  await redis.set(KEY, 'bob', 'PX', 1_500);
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '"bob"'),
  );
  expect(await client.locks.inspect('l')).toMatchObject({ ownerId: 'bob', fencingToken: null });
  const lock = await client.locks.acquire('l', { ...ADA, waitMs: 10_000 });
  expect(await redis.get(KEY)).toBe('ada');
  await lock.release();
});

test('8.2: after its holder deletes it, such a lock goes to the first waiter', async () => {
  const client = await openClient(url);
  await redis.set(KEY, 'bob');
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', 'without an end'),
  );
  expect((await client.locks.inspect('l'))?.ttlMs).toBeNull();
  const next = client.locks.acquire('l', { ...ADA, waitMs: 10_000 });
  await eventually(async () => expect((await client.locks.inspect('l'))?.waiters).toBe(1));
  await redis.del(KEY);
  await (await next).release();
});

test('8.2: a plain SET guards metadata, and so does a lock of Rollcall', async () => {
  const client = await openClient(url);
  const write = (actorUserId: string, lockName = 'l') =>
    client.metadata.set({ ...CHANNEL, data: [], options: { lockName }, actorUserId });
  await expect(write('ada')).rejects.toEqual(failure('METADATA_LOCK', 'not held by any user'));
  await redis.set(KEY, 'bob', 'PX', 60_000);
  await expect(write('ada')).rejects.toEqual(failure('METADATA_LOCK', 'different user'));
  await write('bob');
  await client.locks.acquire('m', ADA);
  await write('ada', 'm');
  await expect(write('bob', 'm')).rejects.toEqual(failure('METADATA_LOCK', 'different user'));
});

test.each([
  ['deletes', () => redis.del(KEY), null],
  ['overwrites', () => redis.set(KEY, 'bob', 'PX', 60_000), 'bob'],
] as const)('8.5 lost fires when another client %s the key', async (_, interfere, now) => {
  const client = await openClient(url);
  const recorder = await recordLocks(client);
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 300 });
  await interfere();
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST', '"l"'));
  await eventually(() => {
    expect(recorder.events.map(brief)).toEqual(['acquired l ada', 'revoked l ada']);
  });
  // The new value is not changed.
  await expect(lock.release()).rejects.toEqual(failure('LOCK_LOST'));
  await expect(lock.extend()).rejects.toEqual(failure('LOCK_LOST'));
  expect(await redis.get(KEY)).toBe(now);
  await recorder.stop();
});

test('8.2 a lock that others write for the same owner, after the lease has ended, is a different lock', async () => {
  const client = await openClient(url);
  const lock: Lock = await client.locks.acquire('l', { ...ADA, ttlMs: 50, autoRenew: false });
  await eventually(async () => expect(await redis.exists(KEY)).toBe(0), { intervalMs: 1 });
  await redis.set(KEY, 'ada', 'PX', 60_000);
  await expect(lock.release()).rejects.toEqual(failure('LOCK_LOST'));
  expect(await client.locks.inspect('l')).toMatchObject({ ownerId: 'ada', fencingToken: null });
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
  expect(await redis.get(KEY)).toBe('ada');
});

test('8.2 a holder whose lease has ended on the server does not hold the lock, even if the key names its owner', async () => {
  const client = await openClient(url);
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 60_000, autoRenew: false });
  // As after a jump of the server's clock, when others have since taken the lock for the same
  // owner.
  await redis.hset('prs:{prs:lock:l}:holder', 'ends', 1);
  await redis.set(KEY, 'ada', 'PX', 60_000);
  await expect(lock.extend()).rejects.toEqual(failure('LOCK_LOST'));
  expect(lock.lost.aborted).toBe(true);
  expect(await redis.get(KEY)).toBe('ada');
});

test('8.7 a lock of another implementation can be revoked, and the event has no token', async () => {
  const client = await openClient(url);
  const recorder = await recordLocks(client);
  await redis.set(KEY, 'b"ob');
  expect(await client.locks.revoke('l')).toEqual({ ownerId: 'b"ob', fencingToken: null });
  expect(await redis.exists(KEY)).toBe(0);
  expect(await recorder.settled()).toEqual([
    { type: 'revoked', name: 'l', ownerId: 'b"ob', fencingToken: null, ts: expect.any(Number) },
  ]);
  await recorder.stop();
});

test('a key of another type is CORRUPT_DATA', async () => {
  const client = await openClient(url);
  await redis.sadd(KEY, 'x');
  for (const call of [
    () => client.locks.acquire('l', ADA),
    () => client.locks.inspect('l'),
    () => client.locks.revoke('l'),
  ]) {
    await expect(call()).rejects.toEqual(failure('CORRUPT_DATA'));
  }
});

test('2 a custom key prefix is prepended to every key of a lock', async () => {
  const client = await openClient({ url, keyPrefix: 'my:' });
  const lock = await client.locks.acquire('l', ADA);
  expect(await redis.get('my:lock:l')).toBe('ada');
  const keys = await redis.keys('*');
  expect(keys.length).toBeGreaterThan(2);
  expect(keys.filter((key) => !key.startsWith('my:'))).toEqual([]);
  await lock.release();
});

test('4.5 messages that are not events of the lock are dropped and counted', async () => {
  const client = await openClient(url);
  const recorder = await recordLocks(client);
  const event = { type: 'acquired', name: 'm', ownerId: 'u', fencingToken: 1, ts: 1 };
  for (const bad of ['', '{}', JSON.stringify(event)]) {
    await redis.publish('prs:{prs:lock:l}:lock_events', bad);
  }
  await redis.publish('prs:{prs:lock:m}:lock_events', JSON.stringify(event));
  expect(await recorder.settled()).toEqual([event]);
  expect(client.metrics().eventsMalformed).toBe(3);
  await recorder.stop();
});

test('2.3 only the token stays, after every kind of use', async () => {
  const client = await openClient({ url, sweepIntervalMs: 20 });
  const other = await openClient(url);
  const lock = await client.locks.acquire('l', ADA);
  const gone = other.locks.acquire('l', { ownerId: 'bob', waitMs: 30 });
  await expect(gone).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
  await lock.release();
  await client.locks.acquire('l', { ...ADA, ttlMs: 20, autoRenew: false });
  await client.locks.subscribe(() => {});
  await eventually(async () => {
    expect(await redis.keys('*')).toEqual(['prs:{prs:lock:l}:token']);
  });
});
