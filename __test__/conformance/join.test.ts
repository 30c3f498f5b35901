// Spec 3.1 and 3.2: join, rejoin, and moves to another room or user.
import { expect, test } from 'vitest';
import {
  brief,
  byConn,
  expired,
  failure,
  LONG_TTL_MS,
  ofNodes,
  onEveryStore,
  record,
  SHORT_TTL_MS,
} from './stores.js';

onEveryStore('3.1 join', (store) => {
  test('3.1 resolves to epoch and snapshot, and publishes join', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    const state = { mic: true, cursor: [1, 2] };
    const result = await client.join({ roomId: 'r', userId: 'u', connId: 'c', state });

    const epoch = expect.any(Number);
    const entry = { connId: 'c', userId: 'u', roomId: 'r', state, lastSeenMs: epoch, epoch };
    expect(result).toStrictEqual({ epoch, snapshot: [entry] });
    expect(Number.isSafeInteger(result.epoch)).toBe(true);
    expect(result.snapshot[0]?.epoch).toBe(result.epoch);
    const [event, ...more] = await recorder.settled();
    expect(more).toEqual([]);
    expect(event).toStrictEqual({
      type: 'join',
      roomId: 'r',
      userId: 'u',
      connId: 'c',
      state,
      ts: ofNodes ? expect.any(Number) : result.snapshot[0]?.lastSeenMs,
      epoch: result.epoch,
    });
  });

  test('3.1 the snapshot of a join contains the whole room', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r', userId: 'u1', connId: 'c1', state: { n: 1 } });
    await one.join({ roomId: 'other', userId: 'u1', connId: 'c0' });
    const { snapshot } = await two.join({ roomId: 'r', userId: 'u2', connId: 'c2' });
    expect(byConn(snapshot).map((entry) => [entry.connId, entry.userId, entry.state])).toEqual([
      ['c1', 'u1', { n: 1 }],
      ['c2', 'u2', {}],
    ]);
  });

  test('3.1 snapshot: false returns an empty snapshot', async () => {
    const client = await store.connect();
    expect(
      await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false }),
    ).toStrictEqual({ epoch: expect.any(Number), snapshot: [] });
  });

  test('3.1 the epoch is the time in milliseconds, or more', async () => {
    const client = await store.connect();
    const before = Date.now();
    const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    // The two clocks of this machine may differ; the tolerance is a second.
    expect(epoch).toBeGreaterThanOrEqual(before - 1000);
    expect(epoch).toBeLessThanOrEqual(Date.now() + 1000);
  });

  test('3.1 the epoch grows with every join, even within a millisecond and on different nodes', async () => {
    const clients = [await store.connect(), await store.connect(), await store.connect()];
    let last = 0;
    for (let i = 0; i < 60; i++) {
      const client = clients[i % 3];
      const joined = await client?.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
      expect(joined?.epoch).toBeGreaterThan(last);
      last = joined?.epoch ?? 0;
    }
  });

  test('3.1 concurrent joins of one connection get different epochs', async () => {
    const clients = [await store.connect(), await store.connect()];
    const recorder = await record(clients[0] ?? (await store.connect()));
    const joins = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        clients[i % 2]?.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false }),
      ),
    );
    const epochs = joins.map((joined) => joined?.epoch ?? 0);
    expect(new Set(epochs).size).toBe(40);
    const events = await recorder.settled();
    expect(events.map((event) => event.epoch)).toEqual([...epochs].sort((a, b) => a - b));
  });

  test('3.1 an epoch is not assigned twice, even if the connection left in between', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const epochs = new Set<number>();
    for (let i = 0; i < 200; i++) {
      const client = i % 2 ? one : two;
      const joined = await client.join({ roomId: 'r', userId: 'u', connId: 'c', snapshot: false });
      epochs.add(joined.epoch);
      await (i % 3 ? one : two).leave('c');
    }
    expect(epochs.size).toBe(200);
  });

  test('3.1 a rejoin in the same place replaces the state and publishes join only', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    await client.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1, b: 2 } });
    const { snapshot } = await client.join({
      roomId: 'r',
      userId: 'u',
      connId: 'c',
      state: { c: 3 },
    });
    expect(snapshot.map((entry) => entry.state)).toEqual([{ c: 3 }]);
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'join c r u']);
  });

  test('3.1 a join without a state has an empty state, even after an earlier join with a state', async () => {
    const client = await store.connect();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1 } });
    const { snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
    expect(snapshot[0]?.state).toStrictEqual({});
  });

  test('3.1 after its TTL a connection joins as a new one, and the old one has left', async () => {
    for (const user of ['u', 'other']) {
      const short = await store.connect({ ttlMs: SHORT_TTL_MS });
      const long = await store.connect();
      const recorder = await record(long);
      const first = await short.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await expired(long, 'r', 'c');
      const second = await long.join({ roomId: 'r', userId: user, connId: 'c' });
      expect(second.epoch).toBeGreaterThan(first.epoch);
      await long.reapOnce();
      await short.reapOnce();
      const events = await recorder.settled();
      expect(events.map(brief)).toEqual(['join c r u', 'leave c r u timeout', `join c r ${user}`]);
      expect(events.map((event) => event.epoch)).toEqual([first.epoch, first.epoch, second.epoch]);
      await long.leave('c');
      await recorder.stop();
    }
  });
});

onEveryStore(
  '3.1 a join after an adopted epoch',
  (store) => {
    test('3.1 the epoch is greater than an adopted epoch in the future', async () => {
      const [one, two] = [await store.connect(), await store.connect()];
      const { epoch } = await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
      const ahead = epoch + 1_000_000;
      await one.heartbeat({ connId: 'c', epoch: ahead });
      const again = await two.join({ roomId: 'r', userId: 'u', connId: 'c' });
      expect(again.epoch).toBe(ahead + 1);
    });
  },
  { slotted: 'only joins assign epochs there', cluster: 'only joins assign epochs there' },
);

onEveryStore('3.2 a join of a connection that is in another place', (store) => {
  const places = [
    ['another room', { roomId: 'r2', userId: 'u1' }],
    ['another user', { roomId: 'r1', userId: 'u2' }],
    ['another room and user', { roomId: 'r2', userId: 'u2' }],
  ] as const;

  for (const [what, to] of places) {
    for (const by of ['the same node', 'another node'] as const) {
      test(`3.2 moves to ${what}, by ${by}`, async () => {
        const first = await store.connect();
        const second = by === 'the same node' ? first : await store.connect();
        const recorder = await record(first);
        const old = await first.join({ roomId: 'r1', userId: 'u1', connId: 'c', state: { a: 1 } });
        const moved = await second.join({ ...to, connId: 'c', state: { b: 2 } });

        expect(moved.epoch).toBeGreaterThan(old.epoch);
        expect(moved.snapshot.map((entry) => [entry.connId, entry.state])).toEqual([
          ['c', { b: 2 }],
        ]);
        const [, leave, join, ...more] = await recorder.settled();
        expect(more).toEqual([]);
        expect(leave).toStrictEqual({
          type: 'leave',
          roomId: 'r1',
          userId: 'u1',
          connId: 'c',
          state: null,
          ts: expect.any(Number),
          epoch: old.epoch,
          reason: 'replaced',
        });
        expect(join).toMatchObject({ type: 'join', ...to, connId: 'c', epoch: moved.epoch });
        for (const roomId of ['r1', 'r2']) {
          const there = await first.fetchRoomSnapshot(roomId);
          expect(there.length, roomId).toBe(roomId === to.roomId ? 1 : 0);
        }
        for (const userId of ['u1', 'u2']) {
          const { rooms } = await first.getUserPresence(userId);
          expect(rooms, userId).toEqual(userId === to.userId ? [to.roomId] : []);
        }
        // The node that joined it first follows the move.
        expect(await first.leave('c', { epoch: moved.epoch })).toStrictEqual(to);
      });
    }
  }

  test('3.2 other connections of the user stay in the room that one leaves', async () => {
    const client = await store.connect();
    await client.join({ roomId: 'r1', userId: 'u', connId: 'c1' });
    await client.join({ roomId: 'r1', userId: 'u', connId: 'c2' });
    await client.join({ roomId: 'r2', userId: 'u', connId: 'c1' });
    expect((await client.getUserPresence('u')).rooms).toEqual(['r1', 'r2']);
    expect((await client.fetchRoomSnapshot('r1')).map((entry) => entry.connId)).toEqual(['c2']);
  });

  test('3.2 the epoch from before the move is stale', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const { epoch } = await one.join({ roomId: 'r1', userId: 'u', connId: 'c' });
    await two.join({ roomId: 'r2', userId: 'u', connId: 'c' });
    await expect(one.heartbeat({ connId: 'c', epoch })).rejects.toEqual(failure('STALE_EPOCH'));
  });

  test('3.2 moves back and forth with an expiry: every join has one leave', async () => {
    const short = await store.connect({ ttlMs: SHORT_TTL_MS });
    const long = await store.connect();
    const recorder = await record(long);
    await short.join({ roomId: 'a', userId: 'u1', connId: 'c' });
    await expired(long, 'a', 'c');
    await long.join({ roomId: 'b', userId: 'u2', connId: 'c' });
    await long.join({ roomId: 'a', userId: 'u2', connId: 'c' });
    await short.reapOnce();
    const events = await recorder.settled();
    // The order of the leave in `a` and the events in `b` is not defined.
    expect(events.filter((event) => event.roomId === 'a').map(brief)).toEqual([
      'join c a u1',
      'leave c a u1 timeout',
      'join c a u2',
    ]);
    expect(events.filter((event) => event.roomId === 'b').map(brief)).toEqual([
      'join c b u2',
      'leave c b u2 replaced',
    ]);
    expect((await long.getUserPresence('u1')).connections).toEqual([]);
  });

  test('3.2 after two nodes move a connection at once, it is in one place', async () => {
    const [one, two] = [await store.connect({ ttlMs: LONG_TTL_MS }), await store.connect()];
    const recorder = await record(one);
    for (let i = 0; i < 20; i++) {
      await Promise.all([
        one.join({ roomId: 'r1', userId: 'u', connId: 'c', snapshot: false }),
        two.join({ roomId: 'r2', userId: 'u', connId: 'c', snapshot: false }),
      ]);
      const { connections } = await one.getUserPresence('u');
      expect(connections.length).toBe(1);
    }
    // When rooms are in different slots, only the events of each room are in order (spec 4.2).
    const events = await recorder.settled();
    const oneOrder = store.name === 'redis' || store.name === 'memory';
    for (const rooms of oneOrder ? [['r1', 'r2']] : [['r1'], ['r2']]) {
      let where: string | undefined;
      for (const event of events.filter(({ roomId }) => rooms.includes(roomId))) {
        if (event.type === 'leave') {
          expect(where).toBe(event.roomId);
          where = undefined;
        } else {
          expect([undefined, event.roomId]).toContain(where);
          where = event.roomId;
        }
      }
    }
  });
});
