// Each expiry mode (spec 6.4) passes the same tests.
import type { Redis } from 'ioredis';
import type { ClientOptions } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { brief, type Client, record, useIoredis, useStore } from '../conformance/stores.js';
import { foreignJoin } from '../redis/foreign.js';
import { checkIndices, readIndices } from '../redis/indices.js';
import { eventually } from '../support/wait.js';
import { expectOnce, expectTimely, joinAll, leavesOf, MARGIN_MS } from './expiry.js';

const TTL_MS = 400;
const SWEEP_MS = 200;
const LATE = { ttlMs: TTL_MS, latestMs: SWEEP_MS + MARGIN_MS };

describe.each(['sweep', 'notifications', 'both'] as const)('6.4: expiry by %s', (expiry) => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  /** A client with a short TTL and a running reaper. */
  async function reaping(options: ClientOptions = {}): Promise<Client> {
    // The fallback sweep is too slow to affect the test.
    const slow = { sweepIntervalMs: SWEEP_MS, fallbackSweepMs: 60_000 };
    const client = await store.connect({ ttlMs: TTL_MS, expiry, ...slow, ...options });
    await client.startReaper();
    return client;
  }

  function place(i: number) {
    return { roomId: `r${i % 20}`, userId: `u${i % 17}`, connId: `c${i}` };
  }
  function places(count: number) {
    return Array.from({ length: count }, (_, i) => place(i));
  }

  test('6.1 a leave is emitted in time, and exactly once with three reapers', async () => {
    const nodes = await Promise.all([reaping(), reaping(), reaping()]);
    const recorder = await record(await store.connect());
    const parts = nodes.map((node, n) =>
      joinAll(
        node,
        places(300).filter((_, i) => i % 3 === n),
      ),
    );
    const lastSeen = new Map((await Promise.all(parts)).flatMap((part) => [...part]));
    await eventually(() => leavesOf(recorder.events).length >= 300);
    const leaves = leavesOf(await recorder.settled());
    expectTimely(leaves, lastSeen, LATE);
    expect(new Map(leaves.map(({ connId, epoch }) => [connId, epoch]))).toEqual(lastSeen);
    // A pass counts when it ends; its events are emitted before.
    await eventually(() => {
      const metrics = nodes.map((node) => node.metrics());
      expect(metrics.reduce((sum, { expired }) => sum + expired, 0)).toBe(300);
      for (const { notifications } of metrics) {
        if (expiry === 'sweep') expect(notifications).toBe(0);
        else expect(notifications).toBeGreaterThanOrEqual(300);
      }
    });
    expect(await redis.dbsize()).toBe(0);
  });

  test('6.1 heartbeats and joins in time keep a connection', async () => {
    // A round that is too slow for the TTL proves nothing.
    for (let ttlMs = 800; (await slowestRound(ttlMs)) > ttlMs / 2; ttlMs *= 2) {
      expect(ttlMs, 'the TTL that this machine needs').toBeLessThan(10_000);
      await redis.flushdb();
    }
  }, 60_000);

  /**
   * Checks the promise if no round of heartbeats takes longer than half a TTL; returns the longest
   * round.
   */
  async function slowestRound(ttlMs: number): Promise<number> {
    const node = await reaping({ ttlMs });
    await reaping({ ttlMs });
    const recorder = await record(await store.connect());
    await joinAll(node, places(60));
    // c0 … c19 send heartbeats, c20 … c39 join repeatedly, the others die.
    let ended = false;
    let slowest = 0;
    const errors: unknown[] = [];
    const refused = (error: unknown) => void errors.push(error);
    const keptAlive = (async () => {
      while (!ended) {
        const began = performance.now();
        // Concurrently: in sequence they would take longer than the TTL on a busy machine.
        await Promise.all(
          places(40).map((at, i) =>
            i < 20
              ? node.heartbeat({ connId: at.connId }).catch(refused)
              : node.join({ ...at, snapshot: false }),
          ),
        );
        slowest = Math.max(slowest, performance.now() - began);
      }
    })();
    await eventually(() => leavesOf(recorder.events).length >= 20);
    // And for longer than another TTL.
    const { ts } = leavesOf(recorder.events).at(-1) ?? { ts: 0 };
    await eventually(async () => Number((await redis.time())[0]) * 1000 > ts + 1.5 * ttlMs);
    ended = true;
    await keptAlive;
    if (slowest > ttlMs / 2) return slowest;
    expect(errors).toEqual([]);
    const dead = Array.from({ length: 20 }, (_, i) => `c${i + 40}`);
    const left = leavesOf(recorder.events).map(({ connId }) => connId);
    expect(left.sort()).toEqual(dead.sort());
    for (let i = 0; i < 40; i++) expect(await node.leave(`c${i}`)).not.toBeNull();
    return slowest;
  }

  test('4.2 a connection that expires and joins again, repeatedly: one leave for each join', async () => {
    const node = await reaping({ ttlMs: 60, sweepIntervalMs: 30 });
    await reaping({ ttlMs: 60, sweepIntervalMs: 30 });
    const recorder = await record(await store.connect());
    const epochs: string[] = [];
    await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        for (let round = 0; round < 6; round++) {
          // In its old room or in another, as the same user or as another.
          const userId = `u${(i + round) % 3}`;
          const roomId = `r${(i + (round >> 1)) % 4}`;
          const { epoch } = await node.join({ ...place(i), userId, roomId, snapshot: false });
          epochs.push(`c${i} ${roomId} ${userId} ${epoch}`);
          // Directly after the expiry (before a reaper runs), during the reaping, or afterwards.
          await eventually(async () => (await redis.exists(`prs:conn:c${i}`)) === 0, {
            intervalMs: 1,
          });
        }
      }),
    );
    await eventually(() => leavesOf(recorder.events).length >= epochs.length);
    const leaves = leavesOf(await recorder.settled());
    expectOnce(leaves);
    const ended = leaves.map((l) => `${l.connId} ${l.roomId} ${l.userId} ${l.epoch}`);
    expect(ended.sort()).toEqual(epochs.sort());
    expect(leaves.every(({ reason }) => reason === 'timeout')).toBe(true);
  });

  test('6.1 nodes with a longer TTL: their connections stay, and those with a shorter TTL expire in time', async () => {
    const node = await reaping();
    const other = await store.connect();
    const recorder = await record(other);
    for (let i = 0; i < 20; i++) await other.join({ ...place(i), connId: `long${i}` });
    // Twice: the second time the reaper has already seen connections with a longer TTL.
    for (const round of [1, 2]) {
      const lastSeen = await joinAll(node, places(20));
      await eventually(() => leavesOf(recorder.events).length >= 20 * round);
      expectTimely(leavesOf(await recorder.settled()).slice(20 * (round - 1)), lastSeen, LATE);
    }
    for (let i = 0; i < 20; i++) expect(await other.leave(`long${i}`)).not.toBeNull();
  });

  test('6.5 connections of legacy nodes are found in time too', async () => {
    const node = await reaping();
    const recorder = await record(node);
    const lastSeen = new Map<string, number>();
    for (let i = 0; i < 40; i++) {
      lastSeen.set(`c${i}`, await foreignJoin(redis, { ...place(i), ttlMs: TTL_MS }));
    }
    await eventually(() => leavesOf(recorder.events).length >= 40);
    expectTimely(leavesOf(await recorder.settled()), lastSeen, LATE);
    expect(await redis.keys('*')).toEqual([]);
  });

  test('6.1 after half a room has expired, its indices agree', async () => {
    const node = await reaping();
    const other = await store.connect();
    const recorder = await record(node);
    for (let i = 0; i < 50; i++) await (i % 2 ? node : other).join(place(i));
    await eventually(() => leavesOf(recorder.events).length >= 25);
    const known = checkIndices(await readIndices(redis));
    expect(known.length).toBe(25);
    expect(leavesOf(recorder.events).every((leave) => brief(leave).endsWith('timeout'))).toBe(true);
  });
});
