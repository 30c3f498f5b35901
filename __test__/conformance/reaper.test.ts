// Spec 6.1, 6.6 and 4.2: the reaper removes connections after their TTL, each with exactly one
// leave.
import { expect, test } from 'vitest';
import { eventually } from '../support/wait.js';
import { type AnyEvent, brief, expired, onEveryStore, record, SHORT_TTL_MS } from './stores.js';

onEveryStore('6.1 the reaper', (store) => {
  test('6.1 removes dead connections with a leave (timeout), and no others', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    const recorder = await record(long);
    await long.join({ roomId: 'r', userId: 'u1', connId: 'alive' });
    const { epoch } = await short.join({ roomId: 'r', userId: 'u2', connId: 'dead' });
    await expired(long, 'r', 'dead');
    expect((await short.reapOnce()).expired).toBe(1);
    expect((await long.fetchRoomSnapshot('r')).map((entry) => entry.connId)).toEqual(['alive']);
    const [, , leave, ...more] = await recorder.settled();
    expect(more).toEqual([]);
    expect(leave).toStrictEqual({
      type: 'leave',
      roomId: 'r',
      userId: 'u2',
      connId: 'dead',
      state: null,
      ts: expect.any(Number),
      epoch,
      reason: 'timeout',
    });
  });

  test('6.1 a running reaper removes dead connections by itself', async () => {
    const node = await store.connect({ ttlMs: 50, sweepIntervalMs: 100 });
    const recorder = await record(await store.connect());
    await node.startReaper();
    await node.startReaper();
    await node.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await eventually(() => {
      expect(recorder.events.map(brief)).toEqual(['join c r u', 'leave c r u timeout']);
    });
    // The pass counts when it ends, which may be after the event.
    await eventually(() => expect(node.metrics().expired).toBe(1));
  });

  test('6.1 a connection that joins again in time stays', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    const recorder = await record(long);
    await short.join({ roomId: 'r', userId: 'u', connId: 'rejoined' });
    await expired(long, 'r', 'rejoined');
    await long.join({ roomId: 'r', userId: 'u', connId: 'rejoined' });
    await short.reapOnce();
    await short.reapOnce();
    expect((await long.fetchRoomSnapshot('r')).length).toBe(1);
    expect((await recorder.settled()).map(brief)).toEqual([
      'join rejoined r u',
      'leave rejoined r u timeout',
      'join rejoined r u',
    ]);
  });

  test('6.1 the user stays in the room with their other connections', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    await long.join({ roomId: 'r', userId: 'u', connId: 'alive' });
    await short.join({ roomId: 'r', userId: 'u', connId: 'dead' });
    await expired(long, 'r', 'dead');
    await short.reapOnce();
    expect((await long.getUserPresence('u')).rooms).toEqual(['r']);
    // Nothing more is due, and the last connection's leave removes the user.
    expect((await short.reapOnce()).expired).toBe(0);
    await long.leave('alive');
    expect((await long.getUserPresence('u')).rooms).toEqual([]);
  });

  test('6.1 one pass removes many dead connections of one room', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    const recorder = await record(long);
    const conns = Array.from({ length: 700 }, (_, i) => `c${i}`);
    await Promise.all(
      conns.map((connId, i) =>
        short.join({ roomId: 'r', userId: `u${i % 9}`, connId, snapshot: false }),
      ),
    );
    await long.join({ roomId: 'r', userId: 'u', connId: 'alive', snapshot: false });
    await eventually(async () => (await long.fetchRoomSnapshot('r')).length === 1);
    expect((await short.reapOnce()).expired).toBe(700);
    const left = (await recorder.settled()).filter((event) => event.type === 'leave');
    expect(left.map((event) => event.connId).sort()).toEqual([...conns].sort());
  });
});

onEveryStore('6.6 reapOnce', (store) => {
  test('6.6 reapOnce returns its counts', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: SHORT_TTL_MS })];
    const idle = { rooms: 0, expired: 0, durationMs: expect.any(Number) };
    expect(await short.reapOnce()).toStrictEqual(idle);
    for (const [roomId, connId] of [
      ['r1', 'a'],
      ['r1', 'b'],
      ['r2', 'c'],
    ] as const) {
      await short.join({ roomId, userId: 'u', connId });
    }
    await eventually(async () => (await long.getUserPresence('u')).connections.length === 0);
    const done = await short.reapOnce();
    expect(done).toStrictEqual({ rooms: 2, expired: 3, durationMs: expect.any(Number) });
    expect(done.durationMs).toBeGreaterThanOrEqual(0);
    expect((await short.reapOnce()).expired).toBe(0);
  });
});

onEveryStore('4.2 exactly one leave', (store) => {
  test('4.2 for each of 100 dead connections, with three clients reaping at once', async () => {
    const nodes = await Promise.all(
      [1, 2, 3].map(() => store.connect({ ttlMs: 20, sweepIntervalMs: 10 })),
    );
    const watchers = await Promise.all([store.connect(), store.connect()]);
    const recorders = await Promise.all(watchers.map((watcher) => record(watcher)));
    const joined = new Map<string, number>();
    await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const place = { roomId: `r${i % 8}`, userId: `u${i % 13}`, connId: `c${i}` };
        const made = await nodes[i % 3]?.join({ ...place, snapshot: false });
        joined.set(place.connId, made?.epoch ?? 0);
      }),
    );
    for (const node of nodes) await node.startReaper();
    const isLeave = (event: AnyEvent) => event.type === 'leave';
    await eventually(async () => {
      await Promise.all(nodes.map((node) => node.reapOnce()));
      expect(recorders[0]?.events.filter(isLeave).length).toBeGreaterThanOrEqual(100);
    });
    // There are no further leaves after more passes of all clients.
    for (let i = 0; i < 5; i++) await Promise.all(nodes.map((node) => node.reapOnce()));
    for (const recorder of recorders) {
      const leaves = (await recorder.settled()).filter(isLeave);
      expect(new Map(leaves.map((event) => [event.connId, event.epoch]))).toEqual(joined);
      expect(leaves.length).toBe(100);
      expect(leaves.every((event) => event.type === 'leave' && event.reason === 'timeout')).toBe(
        true,
      );
    }
    // A pass counts when it ends; its events are emitted before.
    await eventually(() => {
      const reaped = nodes.reduce((sum, node) => sum + node.metrics().expired, 0);
      expect(reaped).toBe(100);
    });
  });

  test('4.2 leave and reaper at the same time: exactly one leave event', async () => {
    const [long, short] = [await store.connect(), await store.connect({ ttlMs: 5 })];
    const recorder = await record(long);
    for (let i = 0; i < 60; i++) {
      await short.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false });
      await Promise.all([
        eventually(async () => (await long.leave(`c${i}`)) === null, { intervalMs: 1 }),
        eventually(async () => (await short.reapOnce()).expired === 0, { intervalMs: 1 }),
      ]);
    }
    await eventually(async () => {
      await short.reapOnce();
      const left = (await recorder.settled()).filter((event) => event.type === 'leave');
      expect(left.length).toBe(60);
    });
    const keys = recorder.events.map((event) => `${event.type} ${event.connId}`);
    expect(new Set(keys).size).toBe(keys.length);
  });
});
