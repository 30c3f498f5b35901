// Spec 7.7 and the metadata part of 8.3 on all stores, with locks of Rollcall. (Locks in the format
// of legacy nodes, and the contents of the keys: ../metadata/locks.test.ts.)
import { expect, test } from 'vitest';
import { eventually } from '../support/wait.js';
import { onlyTokensStay } from './locks.js';
import { CHANNEL, items } from './metadata.js';
import { failure, onStoresWithLockName } from './stores.js';

const UNDER = { ...CHANNEL, data: items({ a: '1' }), options: { lockName: 'l' } };

onStoresWithLockName('7.7 locks of Rollcall guard metadata', (store) => {
  onlyTokensStay(store);

  test('7.7 not held, no actor, another owner, its owner', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const refused = (rest: object, message: string) =>
      expect(client.metadata.set({ ...UNDER, ...rest })).rejects.toMatchObject({
        code: 'METADATA_LOCK',
        message,
      });
    await refused({}, 'Lock "l" is not held by any user');
    await refused({ actorUserId: 'ada' }, 'Lock "l" is not held by any user');
    const lock = await other.locks.acquire('l', { ownerId: 'ada' });
    await refused({}, 'Lock "l" requires an authenticated user');
    await refused({ actorUserId: 'bob' }, 'Lock "l" is held by a different user');
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(0);
    const guarded = { ...UNDER, actorUserId: 'ada' };
    expect((await client.metadata.set(guarded)).majorRevision).toBe(1);
    expect((await other.metadata.update(guarded)).majorRevision).toBe(2);
    await lock.release();
    await refused({ actorUserId: 'ada' }, 'Lock "l" is not held by any user');
  });

  test('7.9 an update under a lock that is not held creates nothing', async () => {
    const client = await store.connect();
    const options = { upsert: true, lockName: 'l' };
    const change = { ...UNDER, options, actorUserId: 'ada' };
    await expect(client.metadata.update(change)).rejects.toEqual(
      failure('METADATA_LOCK', 'not held'),
    );
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(0);
    const lock = await client.locks.acquire('l', { ownerId: 'ada' });
    expect((await client.metadata.update(change)).majorRevision).toBe(1);
    await lock.release();
  });

  test('7.7 an expired lease does not allow a change', async () => {
    const client = await store.connect();
    await client.locks.acquire('l', { ownerId: 'ada', ttlMs: 20, autoRenew: false });
    await eventually(async () => expect(await client.locks.inspect('l')).toBeNull());
    await expect(client.metadata.set({ ...UNDER, actorUserId: 'ada' })).rejects.toEqual(
      failure('METADATA_LOCK', 'not held'),
    );
  });

  test('8.3 a write with the token of an older grant is refused, even for the same user', async () => {
    const [client, other] = [await store.connect(), await store.connect()];
    const first = await client.locks.acquire('l', { ownerId: 'ada' });
    const by = ({ fencingToken }: { fencingToken: number }) => ({
      ...UNDER,
      actorUserId: 'ada',
      fencingToken,
    });
    expect((await client.metadata.set(by(first))).majorRevision).toBe(1);
    await other.locks.revoke('l');
    const second = await other.locks.acquire('l', { ownerId: 'ada' });
    expect(second.fencingToken).toBeGreaterThan(first.fencingToken);
    const error = await client.metadata.set(by(first)).catch((caught) => caught);
    expect(error).toMatchObject({ code: 'METADATA_LOCK' });
    for (const part of ['"l"', `${first.fencingToken}`, `${second.fencingToken}`]) {
      expect(error.message).toContain(part);
    }
    expect((await other.metadata.set(by(second))).majorRevision).toBe(2);
    await second.release();
    await expect(other.metadata.set(by(second))).rejects.toEqual(
      failure('METADATA_LOCK', 'not held'),
    );
  });

  test('7.7 many writers with separate locks: each is allowed by its own lock', async () => {
    const client = await store.connect();
    const names = Array.from({ length: 20 }, (_, i) => `l${i}`);
    const held = await Promise.all(
      names
        .filter((_, i) => i % 2 === 0)
        .map((name) => client.locks.acquire(name, { ownerId: name })),
    );
    const results = await Promise.allSettled(
      names.map((lockName) =>
        client.metadata.set({ ...CHANNEL, options: { lockName }, actorUserId: lockName }),
      ),
    );
    expect(results.map(({ status }) => status)).toEqual(
      names.map((_, i) => (i % 2 === 0 ? 'fulfilled' : 'rejected')),
    );
    expect((await client.metadata.get(CHANNEL)).majorRevision).toBe(10);
    for (const lock of held) await lock.release();
  });
});
