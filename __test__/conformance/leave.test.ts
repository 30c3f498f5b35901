// Spec 3.6 and 2.3: leaving, and that no keys are left. (redis/scripts.test.ts shows that the cost
// of a leave does not grow with the room.)
import { expect, test } from 'vitest';
import { brief, expired, LONG_TTL_MS, onEveryStore, record, SHORT_TTL_MS } from './stores.js';

onEveryStore('3.6 leave', (store) => {
  for (const by of ['the node that joined it', 'another node'] as const) {
    test(`3.6 removes the connection everywhere and returns its previous place, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const recorder = await record(first);
      const { epoch } = await first.join({
        roomId: 'r',
        userId: 'u',
        connId: 'c',
        state: { a: 1 },
      });
      expect(await client.leave('c')).toStrictEqual({ roomId: 'r', userId: 'u' });
      expect(await first.fetchRoomSnapshot('r')).toStrictEqual([]);
      expect(await first.getUserPresence('u')).toStrictEqual({
        userId: 'u',
        rooms: [],
        connections: [],
      });
      const [, leave, ...more] = await recorder.settled();
      expect(more).toEqual([]);
      expect(leave).toStrictEqual({
        type: 'leave',
        roomId: 'r',
        userId: 'u',
        connId: 'c',
        state: null,
        ts: expect.any(Number),
        epoch,
        reason: 'left',
      });
    });

    test(`10: getEpoch returns the epoch of a connection while it is present, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      expect(await client.getEpoch('c')).toBeNull();
      const { epoch } = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(await client.getEpoch('c')).toBe(epoch);
      const again = await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(again.epoch).toBeGreaterThan(epoch);
      expect(await client.getEpoch('c')).toBe(again.epoch);
      await first.leave('c');
      expect(await client.getEpoch('c')).toBeNull();
    });

    test(`3.6 is null for an unknown connection, and publishes nothing, by ${by}`, async () => {
      const first = await store.connect();
      const client = by === 'another node' ? await store.connect() : first;
      const recorder = await record(first);
      expect(await client.leave('never')).toBeNull();
      await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await first.leave('c');
      expect(await client.leave('c')).toBeNull();
      expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u left']);
    });
  }

  test('3.6 is null after the TTL; the leave event is a timeout', async () => {
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const recorder = await record(await store.connect());
    await short.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await expired(short, 'r', 'c');
    expect(await short.leave('c')).toBeNull();
    await short.reapOnce();
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u timeout']);
  });

  test('3.6 the user stays in the room while another of their connections is in it', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r', userId: 'u', connId: 'a' });
    await two.join({ roomId: 'r', userId: 'u', connId: 'b' });
    await two.join({ roomId: 'other', userId: 'u', connId: 'c' });
    await one.leave('a');
    expect((await one.getUserPresence('u')).rooms).toEqual(['other', 'r']);
    await one.leave('b');
    expect((await one.getUserPresence('u')).rooms).toEqual(['other']);
  });

  test('3.6 of concurrent leaves, exactly one succeeds', async () => {
    const nodes = [await store.connect(), await store.connect(), await store.connect()];
    const recorder = await record(nodes[0] ?? (await store.connect()));
    await nodes[0]?.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const results = await Promise.all(
      Array.from({ length: 30 }, (_, i) => nodes[i % 3]?.leave('c')),
    );
    expect(results.filter((result) => result !== null)).toEqual([{ roomId: 'r', userId: 'u' }]);
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u left']);
  });

  test('3.6 finds a connection that another node has moved', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r1', userId: 'u1', connId: 'c' });
    await one.heartbeat({ connId: 'c' });
    const { epoch } = await two.join({ roomId: 'r2', userId: 'u2', connId: 'c' });
    expect(await one.leave('c', { epoch })).toStrictEqual({ roomId: 'r2', userId: 'u2' });
  });
});

onEveryStore('3.6 leave is fenced', (store) => {
  const moves = {
    'to the same place': { roomId: 'r', userId: 'u' },
    'under another user': { roomId: 'r', userId: 'v' },
    'to another room': { roomId: 'q', userId: 'u' },
  };
  for (const [where, place] of Object.entries(moves)) {
    test(`3.6 a late leave does not end a connection that another node has joined since, ${where}`, async () => {
      const [a, b] = [await store.connect(), await store.connect()];
      const recorder = await record(b);
      await a.join({ roomId: 'r', userId: 'u', connId: 'x' });
      const { epoch } = await b.join({ ...place, connId: 'x' });
      const before = (await recorder.settled()).length;
      expect(await a.leave('x')).toBeNull();
      // For any number of attempts, and for anything that the node has learned in between.
      await a.heartbeat({ connId: 'x' });
      await a.heartbeat({ connId: 'x', patchState: { a: 1 } });
      expect(await a.leave('x')).toBeNull();
      expect(await a.getEpoch('x')).toBe(epoch);
      const since = (await recorder.settled()).slice(before);
      expect(since.map(({ type }) => type)).toEqual(['update']);
      expect((await b.fetchRoomSnapshot(place.roomId)).map(({ connId }) => connId)).toEqual(['x']);
      expect(await b.leave('x')).toStrictEqual(place);
    });
  }

  test('3.6 a second leave does not end a connection that another node has joined after the first', async () => {
    const [a, b] = [await store.connect(), await store.connect()];
    await a.join({ roomId: 'r', userId: 'u', connId: 'x' });
    expect(await a.leave('x')).not.toBeNull();
    await b.join({ roomId: 'r', userId: 'u', connId: 'x' });
    expect(await a.leave('x')).toBeNull();
    expect(await b.leave('x')).not.toBeNull();
  });

  test('3.6 with an epoch, by a node that did not join the connection', async () => {
    const [owner, other] = [await store.connect(), await store.connect()];
    const { epoch: old } = await owner.join({ roomId: 'r', userId: 'u', connId: 'x' });
    const { epoch } = await owner.join({ roomId: 'r', userId: 'u', connId: 'x' });
    const recorder = await record(other);
    for (const stale of [0, old, epoch - 1]) {
      expect(await other.leave('x', { epoch: stale })).toBeNull();
      expect(await owner.leave('x', { epoch: stale })).toBeNull();
    }
    expect(await recorder.settled()).toEqual([]);
    expect(await other.leave('x', { epoch })).toStrictEqual({ roomId: 'r', userId: 'u' });
    expect((await recorder.settled()).map((event) => event.epoch)).toEqual([epoch]);
    expect(await other.leave('x', { epoch })).toBeNull();
  });

  test('3.6 without an epoch, a node that never joined the connection is not fenced', async () => {
    const [owner, other] = [await store.connect(), await store.connect()];
    await owner.join({ roomId: 'r', userId: 'u', connId: 'x' });
    await other.heartbeat({ connId: 'x' });
    await owner.join({ roomId: 'r', userId: 'u', connId: 'x' });
    expect(await other.leave('x')).toStrictEqual({ roomId: 'r', userId: 'u' });
  });

  test('3.6 a concurrent leave and join by two nodes: the join stays, or is applied after the leave', async () => {
    const [a, b] = [await store.connect(), await store.connect()];
    for (let i = 0; i < 50; i++) {
      const connId = `x${i}`;
      const place = { roomId: 'r', userId: 'u', connId, snapshot: false };
      await a.join(place);
      const [, { epoch }] = await Promise.all([a.leave(connId), b.join(place)]);
      expect(await b.getEpoch(connId)).toBe(epoch);
      expect(await b.leave(connId)).not.toBeNull();
    }
  });
});

onEveryStore('2.3 no keys are left', (store) => {
  // The check runs after every test of the suite: rooms and users are empty, DBSIZE is 0.
  test('2.3 after leaves, moves, rejoins, patches and timeouts', async () => {
    const [long, short] = [
      await store.connect({ ttlMs: LONG_TTL_MS }),
      await store.connect({ ttlMs: SHORT_TTL_MS }),
    ];
    for (let i = 0; i < 200; i++) {
      const client = i % 4 === 0 ? short : long;
      const place = { roomId: `r${i % 7}`, userId: `u${i % 11}`, connId: `c${i % 50}` };
      await client.join({ ...place, state: { i } });
      if (i % 3 === 0) await long.leave(place.connId);
      else if (i % 4 !== 0) await long.heartbeat({ connId: place.connId, patchState: { i: null } });
    }
  });

  test('2.3 after a user left a room in which one of their connections had expired under another user', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    await short.join({ roomId: 'a', userId: 'u1', connId: 'x' });
    await expired(long, 'a', 'x');
    await long.join({ roomId: 'b', userId: 'u2', connId: 'x' });
    await long.join({ roomId: 'a', userId: 'u2', connId: 'y' });
    await long.leave('y');
  });

  test('2.3 after a room whose connections all timed out', async () => {
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const rooms = Array.from({ length: 30 }, (_, i) => `r${i}`);
    await Promise.all(
      rooms.map((roomId, i) => short.join({ roomId, userId: `u${i % 4}`, connId: `c${i}` })),
    );
  });
});
