// Spec 8.1 and 8.9: time limits of acquire and release when a server does not answer. The tests
// measure no times: when a limit is not kept, a call waits for a minute.
import type { Redis } from 'ioredis';
import type { RollcallError } from 'rollcall';
import { beforeEach, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const ADA = { ownerId: 'ada' };
const BOB = { ownerId: 'bob' };
const KEY = 'prs:lock:l';
const SLOW = { limits: { commandTimeoutMs: 60_000, connectTimeoutMs: 60_000 } };

let server: RedisServer;
let redis: Redis;

beforeEach(async () => {
  server = await startRedis();
  redis = await server.client();
  return async () => {
    redis.disconnect();
    await server[Symbol.asyncDispose]();
  };
});

test('8.1 waitMs includes the time to subscribe: a subscriber connection that hangs delays no rejection', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient({ url: proxy.url, ...SLOW });
  const holder = await openClient(server.url);
  const lock = await holder.locks.acquire('l', ADA);
  // New connections hang; the connection for commands exists already.
  const nowhere = await startRedis();
  nowhere.pause();
  proxy.retarget({ host: nowhere.host, port: nowhere.port });
  await expect(client.locks.acquire('l', { ...BOB, waitMs: 200 })).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '"ada"'),
  );
  expect(await redis.exists('prs:{prs:lock:l}:queue')).toBe(0);
  // A waiter still gets the lock.
  const next = client.locks.acquire('l', { ...BOB, waitMs: 60_000 });
  await eventually(async () => expect(await redis.zcard('prs:{prs:lock:l}:queue')).toBe(1));
  await lock.release();
  await (await next).release();
  // And close still resolves.
  await client.close();
  nowhere.resume();
  await nowhere[Symbol.asyncDispose]();
});

test('8.1 waitMs includes the answer of Redis, and the request is revoked', async () => {
  const client = await openClient({ url: server.url, ...SLOW });
  await client.locks.inspect('l');
  server.pause();
  const error: RollcallError = await client.locks
    .acquire('l', { ...ADA, ttlMs: 600_000, waitMs: 200 })
    .catch((thrown) => thrown);
  expect(error).toEqual(failure('TIMEOUT', 'waitMs'));
  expect(error.outcome).toBe('unknown');
  server.resume();
  await eventually(async () => {
    expect(await redis.exists('prs:{prs:lock:l}:token')).toBe(1);
    expect(await redis.exists(KEY)).toBe(0);
  });
});

test('8.9 a release that could not reach Redis is retried in the background, and its record is then removed', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient({ url: proxy.url, limits: { commandTimeoutMs: 300 } });
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  proxy.refuse(true);
  const release = lock.release();
  const error: RollcallError = await release.catch((thrown) => thrown);
  expect(error).toMatchObject({ outcome: 'unknown' });
  expect(['UNAVAILABLE', 'TIMEOUT']).toContain(error.code);
  expect(error.message).toContain('tried again in the background');
  expect(client.metrics().locksHeld).toBe(0);
  expect(lock.release()).toBe(release);
  expect(await redis.get(KEY)).toBe('ada');
  proxy.refuse(false);
  await eventually(async () => expect(await redis.exists(KEY)).toBe(0));
  expect(lock.lost.aborted).toBe(false);
});

test('8.9 close does not wait for a release that is retried', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient({ url: proxy.url, limits: { commandTimeoutMs: 300 } });
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  proxy.refuse(true);
  await expect(lock.release()).rejects.toMatchObject({ outcome: 'unknown' });
  await client.close();
});

test('8.9 an extension of unknown outcome does not outlive the lease: the lock is released', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient({ url: proxy.url, limits: { commandTimeoutMs: 300 } });
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 3_000, autoRenew: false });
  // The request arrives; the answers to it and to its retries are lost.
  const lost = proxy.loseReplies(/EVALSHA[\s\S]*prs:lock:l\r\n/, 1);
  const extension = lock.extend(600_000).catch((thrown) => thrown);
  await lost;
  proxy.refuse(true);
  await expect(extension).resolves.toMatchObject({ outcome: 'unknown' });
  expect(await redis.pttl(KEY)).toBeGreaterThan(300_000);
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  proxy.refuse(false);
  await eventually(async () => expect(await redis.exists(KEY)).toBe(0));
});
