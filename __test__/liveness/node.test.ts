// Spec section 14 within one process: connections that a node answers for. Nodes that die are in
// ../fleet/dead-nodes.test.ts. The conformance tests run with `liveness: "node"` as well.
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { brief, failure, onEveryStore, record } from '../conformance/stores.js';
import { foreignJoin } from '../redis/foreign.js';
import { openClient, rejection } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { eventually } from '../support/wait.js';

const NODE = { liveness: 'node' } as const;
const place = { roomId: 'r', userId: 'u', connId: 'c' };

onEveryStore('14 liveness by node', (store) => {
  const ids = async (client: Awaited<ReturnType<typeof store.connect>>) =>
    (await client.fetchRoomSnapshot('r')).map((entry) => entry.connId);

  test('14.1 a connection lives without heartbeats, whatever ttlMs is', async () => {
    const node = await store.connect({ ...NODE, ttlMs: 50 });
    const other = await store.connect({ liveness: 'heartbeat', ttlMs: 50 });
    const recorder = await record(other);
    await node.join({ ...place, state: { n: 1 } });
    await other.join({ roomId: 'r', userId: 'u', connId: 'short' });
    // Passes come until they have removed a connection that nobody keeps alive.
    await eventually(async () => {
      await other.reapOnce();
      expect(await ids(other)).toEqual(['c']);
      expect(recorder.events.at(-1)?.type).toBe('leave');
    });
    await other.reapOnce();
    expect((await recorder.settled()).map(brief)).toEqual([
      'join c r u',
      'join short r u',
      'leave short r u timeout',
    ]);
    expect(await node.heartbeat({ connId: 'c' })).toMatchObject({ changed: false });
  });

  test('14.2 a heartbeat without a patch settles in the same turn of the event loop', async () => {
    const node = await store.connect(NODE);
    const { epoch } = await node.join(place);
    let settled: unknown;
    void node.heartbeat({ connId: 'c' }).then((result) => {
      settled = result;
    });
    let many: unknown;
    void node.heartbeatMany([{ connId: 'c', epoch }, { connId: 'c' }]).then((results) => {
      many = results;
    });
    // Microtasks run before this.
    await new Promise(setImmediate);
    expect(settled).toStrictEqual({ changed: false, epoch });
    expect(many).toStrictEqual([
      { changed: false, epoch },
      { changed: false, epoch },
    ]);
  });

  test('14.2 a heartbeat with another epoch is not answered without the store', async () => {
    const node = await store.connect(NODE);
    const { epoch } = await node.join(place);
    await expect(node.heartbeat({ connId: 'c', epoch: epoch - 1 })).rejects.toEqual(
      failure('STALE_EPOCH'),
    );
    expect(await node.heartbeat({ connId: 'c', epoch })).toEqual({ changed: false, epoch });
  });

  test('14.2 a heartbeat of a connection that another node owns takes it over', async () => {
    const [first, second] = [await store.connect(NODE), await store.connect(NODE)];
    const watcher = await store.connect({ liveness: 'heartbeat' });
    const recorder = await record(watcher);
    const { epoch } = await first.join(place);
    expect(await second.heartbeat({ connId: 'c' })).toEqual({ changed: false, epoch });
    await first.close();
    expect(await ids(watcher)).toEqual(['c']);
    await second.close();
    await eventually(async () => {
      await watcher.reapOnce();
      expect(await ids(watcher)).toEqual([]);
    });
    expect((await recorder.settled()).map(brief)).toEqual(['join c r u', 'leave c r u timeout']);
  });

  test('14.2 the former owner learns that another node joined or removed the connection', async () => {
    const [first, second] = [await store.connect(NODE), await store.connect(NODE)];
    const { epoch: before } = await first.join(place);
    const { epoch } = await second.join(place);
    await eventually(async () => {
      await expect(first.heartbeat({ connId: 'c', epoch: before })).rejects.toEqual(
        failure('STALE_EPOCH'),
      );
    });
    expect(await second.heartbeat({ connId: 'c', epoch })).toEqual({ changed: false, epoch });
    expect(await first.leave('c', { epoch })).toEqual({ roomId: 'r', userId: 'u' });
    await eventually(async () => {
      await expect(second.heartbeat({ connId: 'c' })).rejects.toEqual(
        failure('CONNECTION_NOT_FOUND'),
      );
    });
  });

  test('14.2 idleTimeoutMs: a connection without heartbeats leaves as timeout', async () => {
    const node = await store.connect({ ...NODE, idleTimeoutMs: 300 });
    const watcher = await store.connect({ liveness: 'heartbeat' });
    const recorder = await record(watcher);
    await node.join(place);
    await node.join({ roomId: 'r', userId: 'u', connId: 'busy' });
    await eventually(async () => {
      await node.heartbeat({ connId: 'busy' });
      expect(await ids(watcher)).toEqual(['busy']);
    });
    expect((await recorder.settled()).map(brief).at(-1)).toBe('leave c r u timeout');
    await expect(node.heartbeat({ connId: 'c' })).rejects.toEqual(failure('CONNECTION_NOT_FOUND'));
  });

  test('14.1 a node that closes ends its connections, each once', async () => {
    const node = await store.connect(NODE);
    const watcher = await store.connect({ liveness: 'heartbeat' });
    const recorder = await record(watcher);
    const conns = Array.from({ length: 600 }, (_, i) => `c${i}`);
    await Promise.all(
      conns.map((connId, i) =>
        node.join({ roomId: `r${i % 40}`, userId: `u${i % 90}`, connId, snapshot: false }),
      ),
    );
    await node.close();
    const leaves = (await recorder.settled()).filter(({ type }) => type === 'leave');
    expect(leaves.map(({ connId }) => connId).sort()).toEqual([...conns].sort());
    expect(new Set(leaves.map((event) => 'reason' in event && event.reason))).toEqual(
      new Set(['timeout']),
    );
  });

  test('14.7 the time last seen is exact to the lease, without any heartbeat', async () => {
    const node = await store.connect({ ...NODE, nodeLeaseMs: 1_000 });
    await node.join(place);
    const lastSeen = async () => {
      const [entry] = (await node.getUserPresence('u')).connections;
      return entry?.lastSeenMs ?? 0;
    };
    const first = await lastSeen();
    await eventually(async () => expect(await lastSeen()).toBeGreaterThan(first + 1_500));
    expect(Math.abs(Date.now() - (await lastSeen()))).toBeLessThan(5_000);
  });

  test('14.6 a client with heartbeats takes a connection over, and back', async () => {
    const node = await store.connect(NODE);
    const heartbeats = await store.connect({ liveness: 'heartbeat', ttlMs: 200 });
    const { epoch } = await node.join(place);
    expect(await heartbeats.heartbeat({ connId: 'c' })).toEqual({ changed: false, epoch });
    // Now it has a TTL, and nobody sends heartbeats.
    await eventually(async () => {
      await heartbeats.reapOnce();
      expect(await ids(heartbeats)).toEqual([]);
    });
    await eventually(async () => {
      await expect(node.heartbeat({ connId: 'c' })).rejects.toEqual(
        failure('CONNECTION_NOT_FOUND'),
      );
    });
  });
});

onEveryStore(
  '14 liveness by node, on one Redis',
  (store) => {
    test('14.2, 14.5 neither heartbeats nor idle connections send a command', async () => {
      const node = await store.connect({ ...NODE, nodeLeaseMs: 60_000 });
      const connIds = Array.from({ length: 50 }, (_, i) => `c${i}`);
      await Promise.all(connIds.map((connId) => node.join({ ...place, connId })));
      const { server, db } = store.redis();
      const redis = await server.client(db);
      const scripts = async () => (await commandCalls(redis)).evalsha ?? 0;
      const before = await scripts();
      for (let i = 0; i < 20; i++) {
        await Promise.all(connIds.map((connId) => node.heartbeat({ connId })));
      }
      expect(await scripts()).toBe(before);
      redis.disconnect();
    });

    test('14.4 what Redis has lost is joined again, with its state; the rest is not touched', async () => {
      const node = await store.connect({ ...NODE, nodeLeaseMs: 3_000 });
      const watcher = await store.connect({ liveness: 'heartbeat' });
      const recorder = await record(watcher);
      const { epoch } = await node.join({ ...place, state: { n: 1 } });
      await node.heartbeat({ connId: 'c', patchState: { m: 2 } });
      const { server, db } = store.redis();
      await server.flush(db);
      await eventually(async () => {
        const [entry] = await watcher.fetchRoomSnapshot('r');
        expect(entry).toMatchObject({ connId: 'c', userId: 'u', state: { n: 1, m: 2 } });
        expect(entry?.epoch).toBeGreaterThan(epoch);
      });
      // A caller that knows the former epoch still means this connection.
      expect((await node.heartbeat({ connId: 'c', epoch })).epoch).toBeGreaterThan(epoch);
      expect((await recorder.settled()).map(brief)).toEqual([
        'join c r u',
        'update c r u',
        'join c r u',
      ]);
      expect(node.metrics().connectionsRestored).toBe(1);
      expect(await node.leave('c', { epoch })).toEqual({ roomId: 'r', userId: 'u' });
    });
  },
  {
    memory: 'it has no commands and loses nothing',
    cluster: 'covered by ../fleet/dead-nodes.test.ts',
  },
);

onEveryStore(
  '14.6 beside legacy nodes',
  (store) => {
    test('14.6 a connection that a legacy node joins is not the node’s any more', async () => {
      const node = await store.connect({ ...NODE, nodeLeaseMs: 5_000 });
      const { epoch } = await node.join(place);
      const { server, db } = store.redis();
      const redis = await server.client(db);
      // As a legacy reader sees it.
      expect(Number(await redis.hget('prs:conn:c', 'epoch'))).toBe(epoch);
      expect(await redis.zrangebyscore('prs:{room:r}:last_seen', 0, Date.now() + 1e9)).toEqual([]);
      await foreignJoin(redis, { ...place, epoch: epoch + 1 });
      await node.close();
      expect(await redis.exists('prs:conn:c')).toBe(1);
      await delay(0);
      redis.disconnect();
    });
  },
  {
    memory: 'legacy nodes use Redis',
    slotted: 'legacy nodes use the layout v1',
    cluster: 'legacy nodes use the layout v1',
  },
);

test.each([
  [{ liveness: 'lease' }, 'liveness'],
  [{ ...NODE, nodeLeaseMs: 50 }, 'nodeLeaseMs'],
  [{ ...NODE, nodeWatchdogMs: 0 }, 'nodeWatchdogMs'],
  [{ ...NODE, nodeBackstopMs: 20_000 }, 'nodeBackstopMs'],
  [{ idleTimeoutMs: 1000 }, 'idleTimeoutMs'],
  [{ ...NODE, idleTimeoutMs: 0 }, 'idleTimeoutMs'],
])('14.1 options that do not fit are refused: %j', async (options, name) => {
  const error = await rejection(() => openClient({ url: 'memory://', ...options } as never));
  expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', message: expect.stringContaining(name) });
});
