// Spec 6.8 for locks: the server's wall clock changes while it runs, on each layout.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient } from '../support/clients.js';
import type { RedisServer } from '../support/redis.js';
import {
  type ServerClock,
  startClockedPair,
  startClockedRedis,
  whyNoServerClock,
} from '../support/server-clock.js';
import { eventually } from '../support/wait.js';

const HOUR_MS = 3600_000;
const ADA = { ownerId: 'ada' };
const BOB = { ownerId: 'bob' };

describe.skipIf(whyNoServerClock() !== undefined).each(['v1', 'slotted'] as const)(
  '6.8 locks on %s',
  (layout) => {
    let server: RedisServer;
    let clock: ServerClock;
    let redis: Redis;

    beforeEach(async () => {
      ({ server, clock } = await startClockedRedis());
      redis = await server.client();
    });

    afterEach(async () => {
      redis.disconnect();
      await server[Symbol.asyncDispose]();
    });

    const connect = () => openClient({ url: server.url, layout });

    /** The key of the lock with this ending. */
    async function keyOf(end: string): Promise<string> {
      const found = (await redis.keys('prs:*')).find((name) => name.endsWith(end));
      if (found === undefined) throw new Error(`no key of the lock ends with ${end}`);
      return found;
    }

    test('6.8 the clock is set back: a dead waiter does not block a free lock for the waiters behind it', async () => {
      const client = await connect();
      const lock = await client.locks.acquire('l', ADA);
      const waiting = client.locks.acquire('l', { ...BOB, waitMs: 60_000 });
      await eventually(async () => expect(await redis.zcard(await keyOf(':queue'))).toBe(1));
      // The waiter of a node that has just died is the first in the queue.
      const [seconds = 0] = (await redis.time()).map(Number);
      await redis.zadd(await keyOf(':queue'), 1, '7 prs:lock_wake:dead');
      await redis.zadd(await keyOf(':living'), seconds * 1000 + 1_400, 'prs:lock_wake:dead');
      clock.set(-HOUR_MS);
      await lock.release();
      await (await waiting).release();
    });

    test('6.8 the clock is set back: the lease of a dead holder lasts no longer than its TTL', async () => {
      const client = await connect();
      const dead = await client.locks.acquire('l', { ...ADA, ttlMs: 1_500, autoRenew: false });
      const waiting = client.locks.acquire('l', { ...BOB, waitMs: 60_000 });
      await eventually(async () => expect(await redis.zcard(await keyOf(':queue'))).toBe(1));
      clock.set(-HOUR_MS);
      const next = await waiting;
      expect(next.fencingToken).toBeGreaterThan(dead.fencingToken);
      await next.release();
    });

    test('6.8 the clock is set back and no client asks for the lock: its expiry is still detected', async () => {
      const client = await connect();
      const ended: string[] = [];
      await client.locks.subscribe(({ type }) => {
        if (type === 'expired') ended.push(type);
      });
      await client.locks.acquire('l', { ...ADA, ttlMs: 1_500, autoRenew: false });
      clock.set(-HOUR_MS);
      await eventually(() => expect(ended).toEqual(['expired']), { timeoutMs: 20_000 });
    });

    test('6.8 the clock is set back: a holder that renews keeps its lock', async () => {
      const client = await connect();
      const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 1_500 });
      clock.set(-HOUR_MS);
      // Every call for the lock evaluates the lease again.
      for (let renewals = 0, before = lock.expiresAt; renewals < 4; ) {
        const held = await client.locks.inspect('l');
        expect(held).toMatchObject({ ownerId: 'ada', fencingToken: lock.fencingToken });
        expect(held?.ttlMs).toBeLessThanOrEqual(1_500);
        await expect(client.locks.acquire('l', BOB)).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
        if (lock.expiresAt > before) {
          renewals += 1;
          before = lock.expiresAt;
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      expect(lock.lost.aborted).toBe(false);
      expect(
        await redis.pttl(await keyOf(layout === 'v1' ? 'lock:l' : 'lock:l}')),
      ).toBeLessThanOrEqual(1_500);
      await lock.release();
    });

    test('6.8 a failover to a server whose clock is 60 s behind: neither a dead holder nor a dead waiter blocks the lock', async () => {
      await using pair = await startClockedPair(server, -60_000);
      const client = await openClient({ url: pair.url, layout });
      const dead = await client.locks.acquire('l', { ...ADA, ttlMs: 1_500, autoRenew: false });
      const waiting = client.locks.acquire('l', { ...BOB, waitMs: 60_000 });
      await eventually(async () => expect(await redis.zcard(await keyOf(':queue'))).toBe(1));
      const [seconds = 0] = (await redis.time()).map(Number);
      await redis.zadd(await keyOf(':queue'), 1, '7 prs:lock_wake:dead');
      await redis.zadd(await keyOf(':living'), seconds * 1000 + 1_400, 'prs:lock_wake:dead');
      await pair.failOver(redis);
      const next = await waiting;
      expect(next.fencingToken).toBeGreaterThan(dead.fencingToken);
      await next.release();
    });

    test('6.8 the clock is set ahead: leases end early, lost fires at the next renewal, the token still grows', async () => {
      const [one, two] = [await connect(), await connect()];
      const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 3_000 });
      clock.set(HOUR_MS);
      const next = await two.locks.acquire('l', { ...BOB, waitMs: 60_000 });
      expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
      expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
      // The clock is corrected: later tokens are still greater than those assigned before.
      await next.release();
      clock.set(0);
      const last = await one.locks.acquire('l', ADA);
      expect(last.fencingToken).toBeGreaterThan(next.fencingToken);
      await last.release();
    });
  },
);
