// Spec 6.7: a damaged lock, or a lock server that does not answer, affects no other lock.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient } from '../support/clients.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';

const ADA = { ownerId: 'ada' };
/** More locks than one read of the index returns. */
const SPOILED = 300;

describe.each(['v1', 'slotted'] as const)('6.7 locks on %s', (layout) => {
  let server: RedisServer;
  let redis: Redis;

  beforeEach(async () => {
    server = await startRedis();
    redis = await server.client();
  });

  afterEach(async () => {
    redis.disconnect();
    await server[Symbol.asyncDispose]();
  });

  /** Writes another type of value to the keys of locks that match. */
  async function spoil(pattern: string): Promise<number> {
    const keys = await redis.keys(pattern);
    for (const key of keys) {
      await redis.del(key);
      await redis.rpush(key, 'foreign');
    }
    return keys.length;
  }

  test.each(['holder', 'lock', 'queue', 'living', 'token'])(
    '6.7 locks whose key (%s) was overwritten do not prevent the detection of other expiries',
    async (part) => {
      const client = await openClient({ url: server.url, layout, sweepIntervalMs: 100 });
      const names = Array.from({ length: SPOILED }, (_, i) => `spoiled${i}`);
      const lease = { ...ADA, ttlMs: 3_000, autoRenew: false };
      await Promise.all(names.map((name) => client.locks.acquire(name, lease)));
      await client.locks.acquire('sound', { ...lease, ttlMs: 3_500 });
      const lasting = await client.locks.acquire('lasting', ADA);
      const held = layout === 'v1' ? 'prs:lock:spoiled*' : 'prs:{lock:spoiled*}';
      if (part === 'lock') expect(await spoil(held)).toBe(SPOILED);
      else if (part === 'holder' || part === 'token') {
        expect(await spoil(`prs:{*lock:spoiled*}:${part}`)).toBe(SPOILED);
      } else {
        const example = (await redis.keys('prs:{*lock:spoiled0}:holder'))[0] as string;
        for (const name of names) {
          await redis.rpush(example.replace('spoiled0', name).replace(/holder$/, part), 'foreign');
        }
      }
      const ended: string[] = [];
      await client.locks.subscribe(
        ({ type }) => {
          ended.push(type);
        },
        { name: 'sound' },
      );
      // Passes of the reaper continue, and find the expiry of the intact lock.
      await eventually(
        async () => {
          await client.reapOnce();
          expect(ended).toEqual(['expired']);
        },
        { timeoutMs: 20_000 },
      );
      // Calls for a damaged lock settle with a suitable code.
      for (const call of [
        () => client.locks.acquire('spoiled0', ADA),
        () => client.locks.inspect('spoiled0'),
        () => client.locks.revoke('spoiled0'),
      ]) {
        const code = await call().then(
          () => 'ok',
          (error) => error.code,
        );
        expect(['ok', 'CORRUPT_DATA']).toContain(code);
      }
      await lasting.extend();
      await lasting.release();
    },
  );

  test('6.7 the holder of a lock whose key was overwritten loses that lock, and no other', async () => {
    const client = await openClient({ url: server.url, layout });
    const spoiled = await client.locks.acquire('spoiled0', ADA);
    const sound = await client.locks.acquire('sound', ADA);
    expect(await spoil(layout === 'v1' ? 'prs:lock:spoiled0' : 'prs:{lock:spoiled0}')).toBe(1);
    await expect(spoiled.extend()).rejects.toEqual(failure('LOCK_LOST'));
    expect(await fired(spoiled.lost)).toEqual(failure('LOCK_LOST'));
    await sound.extend();
    await sound.release();
  });

  test('6.7 an overwritten index of lock expiries fails no lock, and is rebuilt', async () => {
    const client = await openClient({ url: server.url, layout });
    await redis.set('prs:lock_due', 'foreign');
    const lock = await client.locks.acquire('l', ADA);
    await client.reapOnce();
    await lock.extend();
    expect(await redis.type('prs:lock_due')).toBe('zset');
    await lock.release();
  });
});

test('6.7 one Redlock server that does not answer does not prevent the others from detecting lock expiries', async () => {
  const servers = await Promise.all(Array.from({ length: 4 }, () => startRedis()));
  const [first, hung, ...others] = servers as [RedisServer, RedisServer, ...RedisServer[]];
  const client = await openClient({
    url: first.url,
    locks: { urls: [hung.url, ...others.map(({ url }) => url)] },
  });
  await client.locks.acquire('l', { ...ADA, ttlMs: 1_000, autoRenew: false });
  hung.pause();
  const sides = await Promise.all(others.map((server) => server.client()));
  for (const redis of sides) {
    await eventually(async () => expect(await redis.exists('prs:lock:l')).toBe(0));
  }
  // One pass, which does not wait for lock servers. It detects the expiries long before the hung
  // server counts as disconnected.
  await client.reapOnce();
  for (const redis of sides) {
    await eventually(
      async () => {
        expect(await redis.exists('prs:{prs:lock:l}:holder')).toBe(0);
        expect(await redis.exists('prs:lock_due')).toBe(0);
      },
      { timeoutMs: 1_500 },
    );
  }
  hung.resume();
  await client.close();
  for (const server of servers) await server[Symbol.asyncDispose]();
});
