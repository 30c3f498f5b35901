// Spec 7.7, and the metadata part of 8.3: locks that guard changes, in the format of legacy nodes,
// and fencing tokens. On Redis, because the contents of the keys are part of the contract.
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { brief, CHANNEL, items, recordMetadata } from '../conformance/metadata.js';
import { failure, useStore } from '../conformance/stores.js';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';

describe('7.7 lockName', () => {
  const store = useStore('redis');
  let redis: Redis;
  beforeEach(async () => {
    const { server, db } = store.redis();
    redis = await server.client(db);
  });
  // Before the store checks that no keys are left.
  afterEach(async () => {
    const locks = await redis.keys('*lock:*');
    if (locks.length > 0) await redis.del(locks);
    redis.disconnect();
  });

  const lock = (owner: string, name = 'x', ttlMs = 10_000) =>
    redis.set(`prs:lock:${name}`, owner, 'PX', ttlMs);

  /** Every kind of change under the lock. */
  function changes(client: Untyped, rest: { actorUserId?: string; fencingToken?: number }) {
    const change = { ...CHANNEL, options: { lockName: 'x' }, ...rest };
    return [
      () => client.metadata.set({ ...change, data: items({ a: 'set', b: '' }) }),
      () => client.metadata.update({ ...change, data: items({ a: 'updated' }) }),
      () => client.metadata.remove({ ...change, data: [{ key: 'b' }] }),
      // Also when there is nothing to change, or the call has other errors.
      () => client.metadata.remove({ ...change, data: [{ key: 'none' }] }),
      () => client.metadata.update({ ...change, data: [{ key: 'none' }] }),
      () => client.metadata.set({ ...change, options: { lockName: 'x', majorRevision: 77 } }),
    ];
  }

  async function allRefused(client: Untyped, rest: object, message: string) {
    for (const change of changes(client, rest)) {
      const error = await change().catch((caught: unknown) => caught);
      expect(error).toMatchObject({ code: 'METADATA_LOCK', message });
    }
  }

  test('7.7 not held: refused', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '', b: '' }) });
    const recorder = await recordMetadata(client);
    for (const rest of [{ actorUserId: 'ada' }, {}]) {
      await allRefused(client, rest, 'Lock "x" is not held by any user');
    }
    expect(await recorder.settled()).toEqual([]);
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1);
  });

  test('7.7 without an actor: refused', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '', b: '' }) });
    for (const owner of ['ada', '']) {
      await lock(owner);
      await allRefused(client, {}, 'Lock "x" requires an authenticated user');
    }
  });

  test('7.7 held by another: refused', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '', b: '' }) });
    await lock('ada');
    for (const actorUserId of ['bob', 'Ada', 'ada ', 'ad']) {
      await allRefused(client, { actorUserId }, 'Lock "x" is held by a different user');
    }
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(1);
  });

  test('7.7 a plain SET prs:lock:x user PX 10000 guards metadata', async () => {
    const client = await store.connect();
    await lock('ada');
    const [set, update, remove, nothing, missing, conflict] = changes(client, {
      actorUserId: 'ada',
    }) as Untyped[];
    expect((await set()).majorRevision).toBe(1);
    expect((await update()).majorRevision).toBe(2);
    expect(brief(await remove())).toEqual({ major: 3, total: 1, items: { a: ['updated', 2] } });
    expect((await nothing()).majorRevision).toBe(3);
    await expect(missing()).rejects.toEqual(failure('METADATA_INVALID'));
    await expect(conflict()).rejects.toEqual(failure('METADATA_CONFLICT'));
    // Every change checks it, not only the first.
    await lock('bob');
    await expect(update()).rejects.toEqual(failure('METADATA_LOCK', 'a different user'));
    await redis.del('prs:lock:x');
    await expect(update()).rejects.toEqual(failure('METADATA_LOCK', 'not held'));
    await lock('ada', 'x', 30);
    await eventually(async () => expect(await redis.exists('prs:lock:x')).toBe(0));
    await expect(update()).rejects.toEqual(failure('METADATA_LOCK', 'not held'));
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(3);
  });

  test('7.7 ownership is checked in the same step as the write: no change after the lock has gone to another', async () => {
    const client = await store.connect();
    await client.metadata.set({ ...CHANNEL, data: items({ a: '0' }) });
    const change = {
      ...CHANNEL,
      data: items({ a: 'ada' }),
      options: { lockName: 'x' },
      actorUserId: 'ada',
    };
    for (let i = 0; i < 50; i++) {
      await lock('ada');
      const writers = Array.from({ length: 4 }, () => client.metadata.update(change));
      // The script that transfers the lock reads the revision in one step: no later write of the
      // old holder may succeed.
      const handedOver = redis.eval(
        "redis.call('SET', KEYS[1], 'bob') return redis.call('HGET', KEYS[2], 'majorRevision')",
        2,
        'prs:lock:x',
        'prs:{chan:doc:one}:meta',
      );
      const results = await Promise.allSettled(writers);
      const revision = Number(await handedOver);
      expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(revision);
      for (const result of results) {
        if (result.status === 'rejected') expect(result.reason).toEqual(failure('METADATA_LOCK'));
        else expect(result.value.majorRevision).toBeLessThanOrEqual(revision);
      }
    }
  });

  test('7.7 names and owners may contain any characters', async () => {
    const client = await store.connect();
    for (const name of ['a:b', '{x}', 'a b', 'a\0b', '*', 'ä\u{1f600}', '"', 'x}:token']) {
      const change = { ...CHANNEL, options: { lockName: name }, actorUserId: name };
      await expect(client.metadata.set(change)).rejects.toMatchObject({
        code: 'METADATA_LOCK',
        message: `Lock "${name}" is not held by any user`,
      });
      await lock(name, name);
      await client.metadata.set(change);
    }
  });

  test('7.7 a key that is not a lock is reported as corrupt, and affects no other change', async () => {
    const client = await store.connect();
    await redis.hset('prs:lock:x', 'a', '1');
    const [guarded, free] = await Promise.allSettled([
      client.metadata.set({ ...CHANNEL, options: { lockName: 'x' }, actorUserId: 'ada' }),
      client.metadata.set(CHANNEL),
    ]);
    expect(guarded).toMatchObject({ reason: { code: 'CORRUPT_DATA' } });
    expect(guarded.status === 'rejected' && guarded.reason.message).toContain('"x"');
    expect(free).toMatchObject({ value: { majorRevision: 1 } });
  });

  describe('8.3 fencingToken', () => {
    const token = (digits: string | number) => redis.set('prs:{prs:lock:x}:token', digits);
    const guarded = (fencingToken: number) => ({
      ...CHANNEL,
      options: { lockName: 'x' },
      actorUserId: 'ada',
      fencingToken,
    });

    test('8.3 a token older than the newest grant is refused, even for the same user', async () => {
      const client = await store.connect();
      await lock('ada');
      await token(7);
      expect((await client.metadata.set(guarded(7))).majorRevision).toBe(1);
      expect((await client.metadata.set(guarded(8))).majorRevision).toBe(2);
      for (const old of [6, 0]) {
        const error = await client.metadata.set(guarded(old)).catch((caught) => caught);
        expect(error).toMatchObject({ code: 'METADATA_LOCK' });
        for (const part of ['"x"', `${old} `, '7']) expect(error.message).toContain(part);
      }
      await lock('bob');
      await expect(client.metadata.set(guarded(7))).rejects.toEqual(
        failure('METADATA_LOCK', 'a different user'),
      );
    });

    test('8.3 tokens are compared exactly, as numbers', async () => {
      const client = await store.connect();
      await lock('ada');
      for (const [newest, fits, old] of [
        [10, 10, 9],
        [100, 101, 99],
        [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 2],
      ] as const) {
        await token(newest);
        await client.metadata.set(guarded(fits));
        await expect(client.metadata.set(guarded(old))).rejects.toEqual(failure('METADATA_LOCK'));
      }
    });

    test('8.3 a lock of a legacy node has no token: then only the owner counts', async () => {
      const client = await store.connect();
      await lock('ada');
      expect((await client.metadata.set(guarded(1))).majorRevision).toBe(1);
    });

    test('8.3 a token requires the name of the lock', async () => {
      const client = await store.connect();
      const change = { ...CHANNEL, actorUserId: 'ada', fencingToken: 1 };
      await expect(client.metadata.set(change)).rejects.toEqual(
        failure('INVALID_ARGUMENT', 'lockName'),
      );
    });
  });
});
