// Spec 3.8 and 3.9: the members of a room, and the rooms of a user.
import { expect, test } from 'vitest';
import { byConn, expired, onEveryStore, SHORT_TTL_MS, unchanged } from './stores.js';

onEveryStore('3.8 fetchRoomSnapshot', (store) => {
  test('3.8 returns all live connections of the room and no others', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const expected = [];
    for (let i = 0; i < 50; i++) {
      const joined = { roomId: 'r', userId: `u${i % 7}`, connId: `c${i}`, state: { i } };
      const { epoch } = await (i % 2 ? one : two).join({ ...joined, snapshot: false });
      expected.push({ ...joined, lastSeenMs: expect.any(Number), epoch });
    }
    await one.join({ roomId: 'r2', userId: 'u1', connId: 'elsewhere' });
    for (const client of [one, two]) {
      expect(byConn(await client.fetchRoomSnapshot('r'))).toStrictEqual(byConn(expected));
    }
  });

  test('3.8 of an unknown room is empty', async () => {
    expect(await (await store.connect()).fetchRoomSnapshot('nowhere')).toStrictEqual([]);
  });

  test('3.8 omits expired connections before a reaper has run', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    await long.join({ roomId: 'r', userId: 'u', connId: 'alive' });
    await short.join({ roomId: 'r', userId: 'u', connId: 'dead' });
    await expired(long, 'r', 'dead');
    expect((await long.fetchRoomSnapshot('r')).map((entry) => entry.connId)).toEqual(['alive']);
    const { snapshot } = await long.join({ roomId: 'r', userId: 'u', connId: 'new' });
    expect(byConn(snapshot).map((entry) => entry.connId)).toEqual(['alive', 'new']);
  });

  test('3.8 of a large room is complete', async () => {
    const client = await store.connect();
    const conns = Array.from({ length: 2_000 }, (_, i) => `c${i}`);
    await Promise.all(
      conns.map((connId) =>
        client.join({ roomId: 'r', userId: 'u', connId, state: { connId }, snapshot: false }),
      ),
    );
    const found = await client.fetchRoomSnapshot('r');
    expect(found.map((entry) => entry.connId).sort()).toEqual([...conns].sort());
    expect(found.every((entry) => entry.state?.connId === entry.connId)).toBe(true);
  });
});

onEveryStore('3.9 getUserPresence', (store) => {
  test('3.9 returns the user’s connections in all rooms', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    const expected = [];
    for (const [connId, roomId] of [
      ['c1', 'r2'],
      ['c2', 'r1'],
      ['c3', 'r2'],
    ] as const) {
      const joined = { roomId, userId: 'u', connId, state: { connId } };
      const { epoch } = await one.join(joined);
      expected.push({ ...joined, lastSeenMs: expect.any(Number), epoch });
    }
    await two.join({ roomId: 'r3', userId: 'other', connId: 'c4' });
    const found = await two.getUserPresence('u');
    expect({ ...found, connections: byConn(found.connections) }).toStrictEqual({
      userId: 'u',
      rooms: ['r1', 'r2'],
      connections: expected,
    });
  });

  test('3.9 of an unknown user is empty', async () => {
    expect(await (await store.connect()).getUserPresence('nobody')).toStrictEqual({
      userId: 'nobody',
      rooms: [],
      connections: [],
    });
  });

  test('3.9 returns state, epoch and time of the last heartbeat', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    await one.join({ roomId: 'r', userId: 'u', connId: 'c' });
    const { epoch } = await one.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1 } });
    await two.heartbeat({ connId: 'c', epoch, patchState: { b: [] } });
    const [entry] = await one.fetchRoomSnapshot('r');
    expect(entry).toMatchObject({ state: { a: 1, b: [] }, epoch });
    expect((await one.getUserPresence('u')).connections).toStrictEqual(entry && unchanged([entry]));
  });

  test('3.9 omits expired connections, and rooms with no other connection of the user', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    await long.join({ roomId: 'r1', userId: 'u', connId: 'alive' });
    await short.join({ roomId: 'r2', userId: 'u', connId: 'dead' });
    await expired(long, 'r2', 'dead');
    expect(await long.getUserPresence('u')).toMatchObject({
      rooms: ['r1'],
      connections: [{ connId: 'alive' }],
    });
  });

  test('3.9 follows moves between users', async () => {
    const client = await store.connect();
    await client.join({ roomId: 'r', userId: 'u1', connId: 'c' });
    await client.join({ roomId: 'r', userId: 'u2', connId: 'c' });
    expect((await client.getUserPresence('u1')).connections).toEqual([]);
    expect((await client.getUserPresence('u2')).connections.length).toBe(1);
  });
});
