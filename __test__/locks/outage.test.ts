// Spec 8.5 and 12 for locks: lost answers, and servers that stop, crash, or return empty.
import type { Redis } from 'ioredis';
import { beforeEach, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const ADA = { ownerId: 'ada' };

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

/** A call for the lock that is in flight to the server. */
const CALL = /EVALSHA[\s\S]*prs:lock:l\r\n/;

test('12 an acquire with a lost answer is sent again, and gets the same grant', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient(proxy.url);
  const lost = proxy.loseReplies(CALL);
  const lock = await client.locks.acquire('l', ADA);
  await lost;
  expect(await redis.get('prs:{prs:lock:l}:token')).toBe(String(lock.fencingToken));
  const other = await openClient(server.url);
  await expect(other.locks.acquire('l', ADA)).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
  await lock.release();
});

test('12 a release with a lost answer succeeds', async () => {
  await using proxy = await startProxy(server.port);
  const client = await openClient(proxy.url);
  const lock = await client.locks.acquire('l', ADA);
  const lost = proxy.loseReplies(CALL);
  await lock.release();
  await lost;
  expect(await redis.exists('prs:lock:l')).toBe(0);
  expect(lock.lost.aborted).toBe(false);
});

test('12 an acquire of unknown outcome leaves no lock without a holder', async () => {
  const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 300 } });
  server.pause();
  const error = await client.locks.acquire('l', { ...ADA, ttlMs: 600_000 }).catch((e) => e);
  expect(error).toEqual(failure('TIMEOUT'));
  expect(error.outcome).toBe('unknown');
  server.resume();
  // Long before its TTL: the server runs the delayed acquire, and then the release.
  await eventually(async () => {
    expect(await redis.get('prs:{prs:lock:l}:token')).not.toBeNull();
    expect(await redis.exists('prs:lock:l')).toBe(0);
  });
});

test('8.5 lost fires when no renewal succeeds, before the lock can be granted to another client', async () => {
  const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
  const other = await openClient(server.url);
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 2_000 });
  server.pause();
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST', 'not renewed in time'));
  server.resume();
  const next = await other.locks.acquire('l', { ownerId: 'bob', waitMs: 20_000 });
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  await expect(lock.extend()).rejects.toEqual(failure('LOCK_LOST'));
  expect(client.metrics()).toMatchObject({ locksLost: 1, locksHeld: 0 });
  expect(client.metrics().lockRenewalsFailed).toBeGreaterThan(0);
  await next.release();
});

test('8.5 a renewal that fails temporarily does not lose the lock', async () => {
  const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 4_000 });
  server.pause();
  await eventually(() => client.metrics().lockRenewalsFailed > 0);
  server.resume();
  const before = lock.expiresAt;
  await eventually(() => lock.expiresAt > before);
  expect(lock.lost.aborted).toBe(false);
  await lock.release();
});

test('8.3 a server that returns empty: the holder is notified, and the token still grows', async () => {
  const client = await openClient(server.url);
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 1_000 });
  const waiting = client.locks.acquire('l', { ownerId: 'bob', waitMs: 20_000 });
  await eventually(async () => expect(await redis.zcard('prs:{prs:lock:l}:queue')).toBe(1));
  await server.kill();
  await server.start();
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  const next = await waiting;
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  await next.release();
});

test('8.3 a clock that is set back: the next token is greater than the stored one', async () => {
  const client = await openClient(server.url);
  // Like a grant made when the clock was a day ahead.
  const ahead = (Date.now() + 24 * 3600 * 1000) * 1000;
  await redis.set('prs:{prs:lock:l}:token', String(ahead));
  const lock = await client.locks.acquire('l', ADA);
  expect(lock.fencingToken).toBe(ahead + 1);
  await lock.release();
});

test('12 waiting continues during an outage, and ends with its cause', async () => {
  const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 200 } });
  await redis.set('prs:lock:l', 'bob');
  const lasting = client.locks.acquire('l', { ...ADA, waitMs: 60_000 });
  await eventually(async () => expect(await redis.zcard('prs:{prs:lock:l}:queue')).toBe(1));
  await server.kill();
  await expect(client.locks.acquire('l', { ...ADA, waitMs: 300 })).rejects.toEqual(
    failure('UNAVAILABLE'),
  );
  await server.start();
  await (await lasting).release();
});
