// Spec section 8 on every store, as far as one process can show it. __test__/locks/ tests several
// processes, stopped and killed processes, unreachable servers and majorities of servers.
import { type AcquireOptions, type Lock, RollcallError } from 'rollcall';
import { expect, test } from 'vitest';
import { eventually, within } from '../support/wait.js';
import { brief, fired, onlyTokensStay, recordLocks } from './locks.js';
import { type Client, failure, onEveryStore } from './stores.js';

const ADA: AcquireOptions = { ownerId: 'ada' };
const BOB: AcquireOptions = { ownerId: 'bob' };

/** Resolves when `waiters` calls wait for the lock. */
async function waiting(client: Client, name: string, waiters: number): Promise<void> {
  await eventually(async () => {
    expect((await client.locks.inspect(name))?.waiters).toBe(waiters);
  });
}

onEveryStore('8 locks', (store) => {
  onlyTokensStay(store);

  test('8.1 acquire resolves to a lock with the fields of the specification', async () => {
    const client = await store.connect();
    const before = Date.now();
    const lock = await client.locks.acquire('l', ADA);
    expect(lock).toMatchObject({
      name: 'l',
      ownerId: 'ada',
      fencingToken: expect.any(Number),
      expiresAt: expect.any(Number),
      extend: expect.any(Function),
      release: expect.any(Function),
      lost: expect.any(AbortSignal),
    });
    // The default TTL is 10 s; the guaranteed part is a little less.
    expect(lock.expiresAt).toBeGreaterThan(before + 5_000);
    expect(lock.expiresAt).toBeLessThanOrEqual(Date.now() + 10_000);
    expect(lock.lost.aborted).toBe(false);
    await lock.release();
    expect(await client.locks.inspect('l')).toBeNull();
    expect(lock.lost.aborted).toBe(false);
  });

  test('8.1 acquiring a held lock rejects with LOCK_UNAVAILABLE at once, and the message names the owner and the remaining time', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    const error = await two.locks.acquire('l', BOB).catch((e: Error) => e);
    expect(error).toEqual(failure('LOCK_UNAVAILABLE', '"ada"'));
    expect((error as Error).message).toMatch(/for \d{5} ms/);
    // The same owner does not get the lock twice.
    await expect(one.locks.acquire('l', ADA)).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
    await lock.release();
    await (await two.locks.acquire('l', BOB)).release();
  });

  test('8.1 waitMs waits, and at its end the waiter leaves the queue', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', ADA);
    await expect(two.locks.acquire('l', { ...BOB, waitMs: 1_000 })).rejects.toEqual(
      failure('LOCK_UNAVAILABLE', '"ada"'),
    );
    expect((await one.locks.inspect('l'))?.waiters).toBe(0);
    const next = two.locks.acquire('l', { ...BOB, waitMs: 10_000 });
    await waiting(one, 'l', 1);
    await lock.release();
    await (await next).release();
  });

  test.each([
    ['an Error', new Error('enough')],
    ['a string', 'enough'],
    ['null', null],
    ['a number', 0],
  ])(
    '8.1 and 12: an aborted signal rejects with an Error with a code, and its reason (%s) is the cause',
    async (_, reason) => {
      const [one, two] = [await store.connect(), await store.connect()];
      const lock = await one.locks.acquire('l', ADA);
      const ended = async (call: Promise<Lock>) => {
        const error = await call.catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(RollcallError);
        expect(error).toEqual(failure('LOCK_UNAVAILABLE', 'signal was aborted'));
        expect((error as Error).cause).toBe(reason);
      };
      await ended(
        two.locks.acquire('l', { ...BOB, waitMs: 9_999, signal: AbortSignal.abort(reason) }),
      );
      const controller = new AbortController();
      const { signal } = controller;
      const first = two.locks.acquire('l', { ...BOB, waitMs: Number.POSITIVE_INFINITY, signal });
      await waiting(one, 'l', 1);
      const second = two.locks.acquire('l', { ownerId: 'cy', waitMs: 60_000 });
      await waiting(one, 'l', 2);
      controller.abort(reason);
      await ended(first);
      await waiting(one, 'l', 1);
      await lock.release();
      await (await second).release();
    },
  );

  test('8.1 a signal that aborts at the time of the grant leaves no lock without a holder', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    for (let round = 0; round < 20; round++) {
      const lock = await one.locks.acquire('l', { ...ADA, waitMs: 9_999 });
      const controller = new AbortController();
      const { signal } = controller;
      const next = two.locks.acquire('l', { ...BOB, waitMs: 9_999, signal });
      await waiting(one, 'l', 1);
      const released = lock.release();
      if (round % 2) await released;
      controller.abort(new Error('enough'));
      const got = await next.catch(() => undefined);
      await released;
      await got?.release();
      await eventually(async () => expect(await one.locks.inspect('l')).toBeNull());
    }
  });

  test('8.1 `await using` releases, even after the lock was lost', async () => {
    const client = await store.connect();
    {
      await using lock = await client.locks.acquire('l', ADA);
      expect((await client.locks.inspect('l'))?.ownerId).toBe(lock.ownerId);
    }
    expect(await client.locks.inspect('l')).toBeNull();
    {
      await using lock = await client.locks.acquire('l', ADA);
      await client.locks.revoke('l');
      await fired(lock.lost);
    }
    expect(await client.locks.inspect('l')).toBeNull();
  });

  test('8.2 only the holder can extend or release: identified by its grant, not by the owner’s id', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const old = await one.locks.acquire('l', { ...ADA, ttlMs: 60, autoRenew: false });
    await fired(old.lost);
    const lock = await eventually(() => two.locks.acquire('l', ADA));
    await expect(old.extend()).rejects.toEqual(failure('LOCK_LOST', '"l"'));
    await expect(old.release()).rejects.toEqual(failure('LOCK_LOST'));
    expect((await one.locks.inspect('l'))?.fencingToken).toBe(lock.fencingToken);
    await lock.extend();
    await lock.release();
    await expect(lock.extend()).rejects.toEqual(failure('LOCK_LOST', 'released'));
  });

  test('8.2 late calls of a former holder do not touch the lease of the new one', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const old = await one.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    await two.locks.revoke('l');
    // The owner is the same: only the grant differs.
    const lock = await two.locks.acquire('l', { ...ADA, ttlMs: 600_000, autoRenew: false });
    const late = await Promise.allSettled([old.extend(1_000), old.release(), old.extend()]);
    for (const call of late) expect(call).toMatchObject({ reason: failure('LOCK_LOST') });
    const held = await one.locks.inspect('l');
    expect(held).toMatchObject({ ownerId: 'ada', fencingToken: lock.fencingToken });
    expect(held?.ttlMs).toBeGreaterThan(300_000);
    expect(lock.lost.aborted).toBe(false);
    await lock.release();
  });

  test('8.2 a second release has no effect', async () => {
    const client = await store.connect();
    const lock = await client.locks.acquire('l', ADA);
    const next = client.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    await Promise.all([lock.release(), lock.release()]);
    const held = await next;
    await lock.release();
    expect((await client.locks.inspect('l'))?.ownerId).toBe('bob');
    await held.release();
  });

  test('8.2 extend sets the TTL, for this lease and for its renewals', async () => {
    const client = await store.connect();
    const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    await lock.extend(120_000);
    expect(lock.expiresAt).toBeGreaterThan(Date.now() + 100_000);
    expect((await client.locks.inspect('l'))?.ttlMs).toBeGreaterThan(100_000);
    await lock.extend(1_500);
    expect(lock.expiresAt).toBeLessThanOrEqual(Date.now() + 1_500);
    const first = lock.expiresAt;
    await eventually(() => lock.expiresAt > first + 1_500);
    expect(lock.lost.aborted).toBe(false);
    await lock.release();
  });

  test('8.3 the fencing token grows with every grant: after a release, an expiry, a revocation, a restart', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const tokens: number[] = [];
    const take = async (client: Client, options: Partial<AcquireOptions> = {}): Promise<Lock> => {
      const lock = await client.locks.acquire('l', { ...ADA, waitMs: 5_000, ...options });
      tokens.push(lock.fencingToken);
      return lock;
    };
    for (let i = 0; i < 50; i++) await (await take(i % 2 ? one : two)).release();
    for (let i = 0; i < 3; i++)
      await fired((await take(one, { ttlMs: 30, autoRenew: false })).lost);
    await take(one);
    await two.locks.revoke('l');
    const client = await store.connect();
    await take(client);
    await client.close();
    await (await take(two)).release();
    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
    expect(tokens.every(Number.isSafeInteger)).toBe(true);
  });

  test('8.4 locks are granted in order of arrival', async () => {
    const clients = [await store.connect(), await store.connect(), await store.connect()];
    const [first] = clients as [Client];
    const lock = await first.locks.acquire('l', ADA);
    const order: number[] = [];
    const all: Promise<void>[] = [];
    for (let i = 0; i < 12; i++) {
      const client = clients[i % 3] as Client;
      all.push(
        client.locks.acquire('l', { ownerId: `w${i}`, waitMs: 9_999 }).then(async (held) => {
          order.push(i);
          await held.release();
        }),
      );
      await waiting(first, 'l', i + 1);
    }
    await lock.release();
    await Promise.all(all);
    expect(order).toEqual([...order.keys()]);
  });

  test('8.4 calls of one client are in the order in which they were made', async () => {
    const client = await store.connect();
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 30 }, async (_, i) => {
        const held = await client.locks.acquire('l', { ownerId: `w${i}`, waitMs: 9_999 });
        order.push(i);
        await held.release();
      }),
    );
    expect(order).toEqual([...order.keys()]);
  });

  test('8.4 a caller that does not wait never overtakes one that does', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', ADA);
    const held: string[] = [];
    const next = two.locks.acquire('l', { ...BOB, waitMs: 9_999 }).then((got) => {
      held.push('bob');
      return got;
    });
    await waiting(one, 'l', 1);
    const tries = Array.from({ length: 5 }, async () => {
      const got = await one.locks.acquire('l', { ownerId: 'cy' }).catch(() => undefined);
      if (got) held.push('cy');
      await got?.release();
    });
    await lock.release();
    await (await next).release();
    await Promise.all(tries);
    expect(held[0]).toBe('bob');
  });

  test('8.4 a waiter whose client is closed rejects with CLOSED and does not block the queue', async () => {
    const [one, two, three] = [await store.connect(), await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', ADA);
    const gone = two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    const refused = expect(gone).rejects.toEqual(failure('CLOSED'));
    await waiting(one, 'l', 1);
    const next = three.locks.acquire('l', { ownerId: 'cy', waitMs: 9_999 });
    await waiting(one, 'l', 2);
    await two.close();
    await refused;
    await lock.release();
    await (await next).release();
  });

  test('8.4 the next waiter gets a lock after it expires', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 150, autoRenew: false });
    const next = await two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    expect(lock.lost.aborted).toBe(true);
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
    await next.release();
  });

  test('8.5 a lock is renewed while the JavaScript thread is blocked for three times the TTL', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 1_000 });
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_000);
    expect(lock.lost.aborted).toBe(false);
    expect((await two.locks.inspect('l'))?.fencingToken).toBe(lock.fencingToken);
    await lock.release();
  });

  test('8.5 without autoRenew, lost fires at the end of the TTL, before the lock is granted again', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 500, autoRenew: false });
    const seen: string[] = [];
    lock.lost.addEventListener('abort', () => void seen.push('lost'));
    const next = await two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    // Both clients are in this process, so the other client cannot be notified earlier.
    expect(lock.lost.aborted).toBe(true);
    expect(lock.lost.reason).toEqual(failure('LOCK_LOST', '"l"'));
    expect(seen).toEqual(['lost']);
    expect(() => lock.lost.throwIfAborted()).toThrow('"l"');
    await next.release();
  });

  test('8.5 the next call of the client detects an expired lease', async () => {
    const client = await store.connect();
    const ways: ((lock: Lock) => unknown)[] = [
      (lock) => lock.lost,
      () => client.heartbeat({ connId: 'unknown' }).catch(() => {}),
      () => client.fetchRoomSnapshot('r'),
      (lock) => lock.extend().catch(() => {}),
      (lock) => lock.release().catch(() => {}),
      (lock) => lock.expiresAt,
    ];
    for (const way of ways) {
      const lock = await client.locks.acquire('l', {
        ...ADA,
        // Long enough for the answer to arrive in time on a busy machine.
        ttlMs: 400,
        autoRenew: false,
        waitMs: 5000,
      });
      let lost = false;
      lock.lost.addEventListener('abort', () => {
        lost = true;
      });
      // Nothing from the core reaches JavaScript in the meantime.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 450);
      way(lock);
      expect(lost, String(way)).toBe(true);
    }
    await eventually(async () => expect(await client.locks.inspect('l')).toBeNull());
  });

  test('8.7 inspect returns the owner, the token, the remaining time and the number of waiters', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    expect(await two.locks.inspect('l')).toBeNull();
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    const next = two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    await waiting(one, 'l', 1);
    const found = await two.locks.inspect('l');
    expect(found).toEqual({
      name: 'l',
      ownerId: 'ada',
      fencingToken: lock.fencingToken,
      ttlMs: expect.any(Number),
      waiters: 1,
    });
    expect(found?.ttlMs).toBeGreaterThan(30_000);
    await lock.release();
    await (await next).release();
  });

  test('8.7 revoke ends the lock: its holder is notified at once, and the next waiter gets it', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    expect(await two.locks.revoke('l')).toBeNull();
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    const next = two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    await waiting(one, 'l', 1);
    expect(await two.locks.revoke('l')).toEqual({
      ownerId: 'ada',
      fencingToken: lock.fencingToken,
    });
    // Long before the next renewal, which is in 20 s.
    expect(await within(fired(lock.lost), 5_000, 'lost')).toEqual(failure('LOCK_LOST', '"l"'));
    await expect(lock.release()).rejects.toEqual(failure('LOCK_LOST'));
    expect((await next).fencingToken).toBeGreaterThan(lock.fencingToken);
    await (await next).release();
  });

  test('8.7 events: each change once, in order, to subscribers of all locks and of this lock', async () => {
    const [one, two] = [await store.connect(), await store.connect({ sweepIntervalMs: 50 })];
    const all = await recordLocks(two);
    const only = await recordLocks(two, { name: 'l' });
    const tokens: number[] = [];
    const take = async (name: string, options: Partial<AcquireOptions> = {}) => {
      const lock = await one.locks.acquire(name, { ...ADA, ...options });
      tokens.push(lock.fencingToken);
      return lock;
    };
    await (await take('l')).release();
    await (await take('m')).release();
    await take('l');
    await two.locks.revoke('l');
    await take('l', { ttlMs: 50, autoRenew: false });
    // No client asks for the lock: the subscriber detects its expiry.
    await eventually(() => all.events.length >= 8 && only.events.length >= 6);
    const expected = [
      'acquired l ada',
      'released l ada',
      'acquired m ada',
      'released m ada',
      'acquired l ada',
      'revoked l ada',
      'acquired l ada',
      'expired l ada',
    ];
    const events = await all.settled();
    if (store.name === 'cluster') {
      // Events of two locks come from two masters and have no common order.
      const of = (name: string) => (event: string) => event.split(' ')[1] === name;
      for (const name of ['l', 'm']) {
        expect(events.map(brief).filter(of(name))).toEqual(expected.filter(of(name)));
      }
    } else {
      expect(events.map(brief)).toEqual(expected);
      expect(events.map((event) => event.fencingToken)).toEqual(tokens.flatMap((t) => [t, t]));
    }
    expect(events.every((event) => Math.abs(event.ts - Date.now()) < 60_000)).toBe(true);
    expect((await only.settled()).map(brief)).toEqual(
      expected.filter((event) => event.includes(' l ')),
    );
    await all.stop();
    await only.stop();
    await (await take('l')).release();
    expect(all.events.length).toBe(8);
  });

  test('8.7 an expiry is emitted once, whether a waiter, a caller or a subscriber detects it', async () => {
    const clients = [
      await store.connect({ sweepIntervalMs: 2 }),
      await store.connect({ sweepIntervalMs: 2 }),
      await store.connect({ sweepIntervalMs: 2 }),
    ];
    const [one] = clients as [Client];
    const recorders = await Promise.all(clients.map((client) => recordLocks(client)));
    for (let i = 0; i < 10; i++) {
      const name = `l${i}`;
      // Longer than the answer takes on a busy machine: a lease that ends earlier is refused.
      await one.locks.acquire(name, { ...ADA, ttlMs: 300, autoRenew: false });
      const waits = clients.map(async (client) => {
        const held = await client.locks.acquire(name, { ...BOB, waitMs: 9_999 });
        await held.release();
      });
      await Promise.all(waits);
    }
    for (const recorder of recorders) {
      const events = (await recorder.settled()).map(brief);
      for (let i = 0; i < 10; i++) {
        expect(events.filter((event) => event.includes(` l${i} `))).toEqual([
          `acquired l${i} ada`,
          `expired l${i} ada`,
          ...Array.from({ length: 3 }, () => [`acquired l${i} bob`, `released l${i} bob`]).flat(),
        ]);
      }
    }
  });

  test('8 metrics count locks', async () => {
    const client = await store.connect();
    const lock = await client.locks.acquire('l', ADA);
    await client.locks.acquire('l', BOB).catch(() => {});
    const next = client.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    await waiting(client, 'l', 1);
    expect(client.metrics()).toMatchObject({
      locksAcquired: 1,
      locksUnavailable: 1,
      locksHeld: 1,
      locksWaiting: 1,
      locksLost: 0,
    });
    await client.locks.revoke('l');
    await fired(lock.lost);
    await (await next).release();
    expect(client.metrics()).toMatchObject({
      locksAcquired: 2,
      locksReleased: 1,
      locksLost: 1,
      locksHeld: 0,
      locksWaiting: 0,
    });
    expect(client.metrics().lockWaitMs.count).toBe(2);
  });

  test('11.3 close releases what is held; lost has fired before', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 60_000 });
    const next = two.locks.acquire('l', { ...BOB, waitMs: 9_999 });
    await waiting(two, 'l', 1);
    const closing = one.close();
    expect(lock.lost.aborted).toBe(true);
    expect(lock.lost.reason).toEqual(failure('LOCK_LOST', 'closed'));
    await closing;
    await (await next).release();
    await expect(lock.release()).rejects.toEqual(failure('LOCK_LOST'));
    await expect(one.locks.acquire('l', ADA)).rejects.toEqual(failure('CLOSED'));
  });

  test('2.2 names with any characters are separate locks', async () => {
    const client = await store.connect();
    const names = [
      'a',
      'a:b',
      '{a}',
      'a}:token',
      ' ',
      '\u0000',
      '*',
      '[a]',
      '☃',
      'a\nb',
      '%',
      '0 x',
    ];
    const locks: Lock[] = [];
    for (const name of names) {
      locks.push(await client.locks.acquire(name, { ownerId: `owner of ${name}` }));
    }
    for (const name of names) {
      expect((await client.locks.inspect(name))?.ownerId).toBe(`owner of ${name}`);
      await expect(client.locks.acquire(name, ADA)).rejects.toEqual(failure('LOCK_UNAVAILABLE'));
    }
    await Promise.all(locks.map((lock) => lock.release()));
  });
});
