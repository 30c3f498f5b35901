// Spec 3.3 and 3.4: heartbeats, epochs, patches of the state.
import { expect, test } from 'vitest';
import { eventually } from '../support/wait.js';
import {
  brief,
  expired,
  failure,
  ofNodes,
  onEveryStore,
  record,
  SHORT_TTL_MS,
  unchanged,
} from './stores.js';

onEveryStore('3.3 heartbeat', (store) => {
  for (const by of ['the node that joined it', 'another node'] as const) {
    test(`3.3 refreshes the time last seen, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const { epoch, snapshot } = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      const before = snapshot[0]?.lastSeenMs ?? 0;
      await eventually(async () => {
        expect(await client.heartbeat({ connId: 'c', epoch })).toStrictEqual({
          changed: false,
          epoch,
        });
        const [entry] = await client.fetchRoomSnapshot('r');
        expect(entry?.lastSeenMs).toBeGreaterThan(before);
      });
    });

    test(`3.3 refreshes the TTL, by ${by}`, async () => {
      // Joins with a short TTL, and refreshes one connection by heartbeats.
      const shortLived = await store.connect({ ttlMs: 2_000 });
      await shortLived.join({ roomId: 'r', userId: 'u', connId: 'idle' });
      const { epoch } = await shortLived.join({ roomId: 'r', userId: 'u', connId: 'c' });
      const client = by === 'another node' ? await store.connect() : shortLived;
      const heartbeat = () => client.heartbeat({ connId: 'c', epoch }).catch(() => {});
      const heartbeats = setInterval(heartbeat, 100);
      try {
        await expired(client, 'r', 'idle');
        expect((await client.fetchRoomSnapshot('r')).map((entry) => entry.connId)).toEqual(['c']);
      } finally {
        clearInterval(heartbeats);
      }
    });

    test(`3.3 a heartbeat without an epoch is accepted, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const { epoch } = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(await client.heartbeat({ connId: 'c' })).toStrictEqual({ changed: false, epoch });
    });

    test(`3.3 a lower epoch is refused and nothing is written, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const recorder = await record(first);
      const { epoch, snapshot } = await first.join({
        roomId: 'r',
        userId: 'u',
        connId: 'c',
        state: { a: 1 },
      });
      for (const stale of [0, 1, epoch - 1]) {
        await expect(client.heartbeat({ connId: 'c', epoch: stale })).rejects.toEqual(
          failure('STALE_EPOCH', String(epoch)),
        );
        await expect(
          client.heartbeat({ connId: 'c', epoch: stale, patchState: { a: 2 } }),
        ).rejects.toEqual(failure('STALE_EPOCH'));
      }
      expect(await client.fetchRoomSnapshot('r')).toStrictEqual(unchanged(snapshot));
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
    });

    test(`3.3 a heartbeat of an unknown connection is refused and changes nothing, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const recorder = await record(first);
      await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await first.leave('c');
      for (const connId of ['c', 'never']) {
        for (const heartbeat of [{}, { epoch: 2 ** 53 - 1 }, { patchState: { a: 1 } }]) {
          await expect(client.heartbeat({ connId, ...heartbeat })).rejects.toEqual(
            failure('CONNECTION_NOT_FOUND', connId),
          );
        }
      }
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u left']);
    });
  }

  test('3.3 an expired connection is unknown', async () => {
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const { epoch } = await short.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await expired(short, 'r', 'c');
    await expect(short.heartbeat({ connId: 'c', epoch })).rejects.toEqual(
      failure('CONNECTION_NOT_FOUND'),
    );
    expect(await short.fetchRoomSnapshot('r')).toEqual([]);
  });

  test('3.3 heartbeatMany returns a result for each item, in order, with errors as values', async () => {
    const client = await store.connect();
    const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'a' });
    await client.join({ roomId: 'r', userId: 'u', connId: 'b' });
    await client.join({ roomId: 'r', userId: 'u', connId: 'stale' });
    const results = await client.heartbeatMany([
      { connId: 'b', patchState: { x: 1 } },
      { connId: 'gone' },
      { connId: 'stale', epoch: 1 },
      { connId: '' },
      { connId: 'a', epoch },
    ]);
    expect(results).toEqual([
      { changed: true, epoch: expect.any(Number) },
      failure('CONNECTION_NOT_FOUND'),
      failure('STALE_EPOCH'),
      failure('INVALID_ARGUMENT', 'connId'),
      { changed: false, epoch },
    ]);
    expect(await client.heartbeatMany([])).toEqual([]);
  });
});

const ONLY_JOINS_GIVE_EPOCHS = 'only joins assign epochs there';
const DAY_MS = 24 * 60 * 60 * 1000;

onEveryStore(
  '3.3 a heartbeat with a higher epoch',
  (store) => {
    for (const by of ['the node that joined it', 'another node'] as const) {
      test(`3.3 a higher epoch is adopted, by ${by}`, async () => {
        const first = await store.connect();
        const client = by === 'another node' ? await store.connect() : first;
        const { epoch } = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
        expect(await client.heartbeat({ connId: 'c', epoch: epoch + 7 })).toStrictEqual({
          changed: false,
          epoch: epoch + 7,
        });
        const patched = { connId: 'c', epoch: epoch + 9, patchState: { a: 1 } };
        expect(await client.heartbeat(patched)).toStrictEqual({ changed: true, epoch: epoch + 9 });
        expect((await first.fetchRoomSnapshot('r'))[0]?.epoch).toBe(epoch + 9);
        // The previous epoch is now stale on both nodes.
        for (const node of [first, client]) {
          await expect(node.heartbeat({ connId: 'c', epoch: epoch + 8 })).rejects.toEqual(
            failure('STALE_EPOCH', String(epoch + 9)),
          );
        }
        expect(await first.heartbeat({ connId: 'c' })).toStrictEqual({
          changed: false,
          epoch: epoch + 9,
        });
      });
    }

    test('3.3 the leave event has the adopted epoch', async () => {
      const client = await store.connect();
      const recorder = await record(client);
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await client.heartbeat({ connId: 'c', epoch: epoch + 3 });
      await client.leave('c');
      expect((await recorder.settled()).map((event) => event.epoch)).toEqual([epoch, epoch + 3]);
    });

    test('3.3 the timeout event has the adopted epoch', async () => {
      const short = await store.connect({ ttlMs: SHORT_TTL_MS });
      const long = await store.connect();
      const recorder = await record(long);
      const { epoch } = await long.join({ roomId: 'r', userId: 'u', connId: 'c' });
      // Shortens the TTL, so that the connection is due.
      await short.heartbeat({ connId: 'c', epoch: epoch + 3 });
      await expired(long, 'r', 'c');
      // A join of the same place finds the expired connection, independent of the due index.
      await long.join({ roomId: 'r', userId: 'u', connId: 'c' });
      const events = await recorder.settled();
      expect(events.map(brief)).toEqual(['join c r u', 'leave c r u timeout', 'join c r u']);
      expect(events[1]?.epoch).toBe(epoch + 3);
    });

    test('3.3 an epoch more than a day ahead of the server is refused and nothing is written', async () => {
      const client = await store.connect();
      const recorder = await record(client);
      const { epoch, snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      for (const ahead of [epoch + DAY_MS + 600_000, 2 ** 53 - 1]) {
        for (const patch of [{}, { patchState: { a: 1 } }]) {
          await expect(client.heartbeat({ connId: 'c', epoch: ahead, ...patch })).rejects.toEqual(
            failure('INVALID_ARGUMENT', 'one day ahead'),
          );
        }
      }
      expect(await client.fetchRoomSnapshot('r')).toStrictEqual(unchanged(snapshot));
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
      // An epoch within one day is adopted, and the next join gets a higher one.
      const within = epoch + DAY_MS - 600_000;
      expect((await client.heartbeat({ connId: 'c', epoch: within })).epoch).toBe(within);
      const again = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(again.epoch).toBe(within + 1);
      expect((await client.heartbeat({ connId: 'c', epoch: within + 1 })).epoch).toBe(within + 1);
    });

    test('3.3, 5.3 a heartbeat with an epoch too far ahead fails alone; the rest of its batch succeeds', async () => {
      const client = await store.connect({ batchWindowMs: 50 });
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      const results = await client.heartbeatMany([
        { connId: 'c', patchState: { a: 1 } },
        { connId: 'c', epoch: 2 ** 53 - 1, patchState: { b: 1 } },
        { connId: 'c', epoch: epoch + 3 },
      ]);
      expect(results).toEqual([
        { changed: true, epoch: expect.any(Number) },
        failure('INVALID_ARGUMENT', 'one day ahead'),
        { changed: false, epoch: epoch + 3 },
      ]);
      expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ a: 1 });
    });
  },
  { slotted: ONLY_JOINS_GIVE_EPOCHS, cluster: ONLY_JOINS_GIVE_EPOCHS },
);

onEveryStore(
  '3.3 on slotted, an epoch that no join assigned',
  (store) => {
    for (const by of ['the node that joined it', 'another node'] as const) {
      test(`3.3 is CONNECTION_NOT_FOUND and nothing is written, by ${by}`, async () => {
        const first = await store.connect();
        const client = by === 'another node' ? await store.connect() : first;
        const recorder = await record(first);
        const { epoch, snapshot } = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
        for (const higher of [epoch + 1, epoch + 7, 2 ** 53 - 1]) {
          for (const patch of [{}, { patchState: { a: 1 } }]) {
            await expect(
              client.heartbeat({ connId: 'c', epoch: higher, ...patch }),
            ).rejects.toEqual(failure('CONNECTION_NOT_FOUND', 'c'));
          }
        }
        expect(await first.fetchRoomSnapshot('r')).toStrictEqual(unchanged(snapshot));
        // The connection is still present.
        expect((await client.heartbeat({ connId: 'c', epoch })).epoch).toBe(epoch);
        await first.leave('c');
        expect((await recorder.settled()).map((event) => event.epoch)).toEqual([epoch, epoch]);
      });
    }

    test('3.3, 5.3 fails alone; the rest of its batch succeeds', async () => {
      const client = await store.connect({ batchWindowMs: 50 });
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(
        await client.heartbeatMany([
          { connId: 'c', patchState: { a: 1 } },
          { connId: 'c', epoch: epoch + 1, patchState: { b: 1 } },
          { connId: 'c', epoch },
        ]),
      ).toEqual([
        { changed: true, epoch },
        failure('CONNECTION_NOT_FOUND', 'c'),
        { changed: false, epoch },
      ]);
      expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ a: 1 });
    });

    test('3.3 is looked up in the room of a newer join by another node', async () => {
      const [one, two] = [await store.connect(), await store.connect()];
      await one.join({ roomId: 'r1', userId: 'u', connId: 'c' });
      const { epoch } = await two.join({ roomId: 'r2', userId: 'u', connId: 'c' });
      const heartbeat = { connId: 'c', epoch, patchState: { a: 1 } };
      expect(await one.heartbeat(heartbeat)).toStrictEqual({ changed: true, epoch });
      expect((await two.fetchRoomSnapshot('r2'))[0]?.state).toEqual({ a: 1 });
    });
  },
  {
    redis: 'legacy nodes also assign epochs there, so they are adopted',
    memory: 'as on v1',
  },
);

onEveryStore('5.3 a heartbeat with an older epoch', (store) => {
  test('5.3 fails alone; the rest of its batch succeeds, and its patch is not applied', async () => {
    const client = await store.connect({ batchWindowMs: 50 });
    const other = await store.connect();
    const { epoch: old } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    for (const owner of [client, other]) {
      const { epoch } = await owner.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(
        await client.heartbeatMany([
          { connId: 'c', epoch: old, patchState: { late: true } },
          { connId: 'c', patchState: { a: 1 } },
        ]),
      ).toEqual([failure('STALE_EPOCH'), { changed: true, epoch }]);
      // The second time, the node knows the newer epoch.
      expect(
        await client.heartbeatMany([
          { connId: 'c', epoch: old, patchState: { late: true } },
          { connId: 'c', epoch, patchState: { a: 2 } },
        ]),
      ).toEqual([failure('STALE_EPOCH'), { changed: true, epoch }]);
      expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ a: 2 });
    }
  });
});

onEveryStore('3.4 patchState', (store) => {
  const merges: [string, object, object, object][] = [
    ['a key with a value replaces', { a: 1, b: { x: 1 } }, { b: { y: 2 } }, { a: 1, b: { y: 2 } }],
    ['null stores null', { a: 1, b: 2 }, { a: null }, { a: null, b: 2 }],
    ['undefined removes the key', { a: 1, b: 2 }, { a: undefined }, { b: 2 }],
    ['a new key comes last', { b: 1 }, { a: 2 }, { b: 1, a: 2 }],
    [
      'all at once',
      { a: 1, b: 2, c: 3 },
      { c: null, a: undefined, d: [undefined, 1], b: false },
      { b: false, c: null, d: [null, 1] },
    ],
    [
      'the merge is of the top level only',
      { a: { b: { c: 1 } } },
      { a: { d: 1 } },
      { a: { d: 1 } },
    ],
    ['every key can go', { a: 1 }, { a: undefined }, {}],
  ];
  for (const [what, before, patchState, after] of merges) {
    test(`3.4 ${what}`, async () => {
      const [maker, patcher] = [await store.connect(), await store.connect()];
      const recorder = await record(maker);
      const { epoch } = await maker.join({ roomId: 'r', userId: 'u', connId: 'c', state: before });
      expect(await patcher.heartbeat({ connId: 'c', patchState })).toStrictEqual({
        changed: true,
        epoch,
      });
      const [entry] = await maker.fetchRoomSnapshot('r');
      expect(JSON.stringify(entry?.state)).toBe(JSON.stringify(after));
      const [, update, ...more] = await recorder.settled();
      expect(more).toEqual([]);
      expect(update).toStrictEqual({
        type: 'update',
        roomId: 'r',
        userId: 'u',
        connId: 'c',
        state: after,
        ts: ofNodes ? expect.any(Number) : entry?.lastSeenMs,
        epoch,
      });
    });
  }

  const same: [string, object][] = [
    ['an empty patch', {}],
    ['the current value', { a: 1 }],
    ['an equal object', { o: { x: [1, { y: null }] } }],
    ['null for a key that is null', { n: null }],
    ['removing a missing key', { nothing: undefined }],
  ];
  for (const [what, patchState] of same) {
    test(`3.4 ${what} changes nothing and publishes nothing`, async () => {
      const [maker, patcher] = [await store.connect(), await store.connect()];
      const recorder = await record(maker);
      const state = { a: 1, o: { x: [1, { y: null }] }, n: null };
      const { epoch } = await maker.join({ roomId: 'r', userId: 'u', connId: 'c', state });
      for (const node of [maker, patcher]) {
        expect(await node.heartbeat({ connId: 'c', patchState })).toStrictEqual({
          changed: false,
          epoch,
        });
      }
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u']);
      expect((await maker.fetchRoomSnapshot('r'))[0]?.state).toStrictEqual(state);
    });
  }

  test('3.4 a patch without a change still counts as a heartbeat', async () => {
    const client = await store.connect();
    const { snapshot } = await client.join({
      roomId: 'r',
      userId: 'u',
      connId: 'c',
      state: { a: 1 },
    });
    await eventually(async () => {
      await client.heartbeat({ connId: 'c', patchState: { a: 1 } });
      const [entry] = await client.fetchRoomSnapshot('r');
      expect(entry?.lastSeenMs).toBeGreaterThan(snapshot[0]?.lastSeenMs ?? 0);
    });
  });

  test('3.4 the state contains all concurrent patches of several nodes', async () => {
    const nodes = await Promise.all([1, 2, 3].map(() => store.connect()));
    const recorder = await record(await store.connect());
    await nodes[0]?.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const keys = Array.from({ length: 60 }, (_, i) => `k${i}`);
    const results = await Promise.all(
      keys.map((key, i) => nodes[i % 3]?.heartbeat({ connId: 'c', patchState: { [key]: i } })),
    );
    expect(results.every((result) => result?.changed)).toBe(true);
    const state = (await nodes[0]?.fetchRoomSnapshot('r'))?.[0]?.state;
    expect(state).toEqual(Object.fromEntries(keys.map((key, i) => [key, i])));
    expect((await recorder.settled()).at(-1)).toMatchObject({ type: 'update', state });
  });

  test('3.4 patches of one node apply in the order of the calls', async () => {
    const client = await store.connect();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        client.heartbeat({ connId: 'c', patchState: { n: i, [`k${i % 5}`]: i } }),
      ),
    );
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({
      n: 49,
      k0: 45,
      k1: 46,
      k2: 47,
      k3: 48,
      k4: 49,
    });
  });
});
