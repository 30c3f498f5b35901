// The report of reapOnce and the counters of metrics() (spec 6.6).
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { record, useIoredis, useStore } from '../conformance/stores.js';
import { foreignJoin } from '../redis/foreign.js';
import { eventually } from '../support/wait.js';
import { leavesOf } from './expiry.js';

const TTL_MS = 600;

describe('the report of the reaper', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  async function allExpired(): Promise<void> {
    await eventually(async () => expect(await redis.keys('prs:conn:*')).toEqual([]));
  }

  test('6.6: reapOnce reports rooms, expired and durationMs, and metrics() adds them up', async () => {
    const long = await store.connect();
    const client = await store.connect({ ttlMs: TTL_MS });
    const recorder = await record(long);
    const nothing = { rooms: 0, expired: 0, durationMs: expect.any(Number) };
    expect(await client.reapOnce()).toStrictEqual(nothing);
    // 12 connections in 4 rooms, two of which have a live connection, and 3 rooms of other nodes.
    const seen = new Map<string, number>();
    for (let i = 0; i < 12; i++) {
      const connId = `c${i}`;
      await client.join({ roomId: `r${i % 4}`, userId: 'u', connId });
    }
    for (let i = 0; i < 2; i++) await long.join({ roomId: `r${i}`, userId: 'v', connId: `v${i}` });
    for (let i = 0; i < 3; i++) await long.join({ roomId: `s${i}`, userId: 'v', connId: `w${i}` });
    for (const event of await recorder.settled()) seen.set(event.connId, event.ts);
    expect(await client.reapOnce()).toStrictEqual(nothing);
    await allExpiredBut(5);
    // The rooms that were joined last are due last.
    const lastJoin = Math.max(...seen.values());
    await eventually(async () => {
      const [seconds = 0, micros = 0] = (await redis.time()).map(Number);
      return seconds * 1000 + micros / 1000 > lastJoin + TTL_MS;
    });

    const before = performance.now();
    const done = await client.reapOnce();
    const tookMs = performance.now() - before;
    // Including the rooms with a longer TTL of another node: this node has to inspect them.
    expect(done).toStrictEqual({ rooms: 7, expired: 12, durationMs: expect.any(Number) });
    expect(done.durationMs).toBeGreaterThanOrEqual(0);
    expect(done.durationMs).toBeLessThanOrEqual(tookMs + 1);
    expect(await client.reapOnce()).toMatchObject({ expired: 0 });

    const metrics = client.metrics();
    expect(metrics).toMatchObject({ sweeps: 4, sweepsFailed: 0, expired: 12, repairs: 0 });
    expect(metrics).toMatchObject({ notifications: 0 });
    expect(metrics.roomsSwept).toBeGreaterThanOrEqual(4);
    expect(metrics.sweepDurationMs.count).toBe(4);
    // One pass has removed connections. Their maximum delay is that between their last heartbeat
    // and their leave.
    const late = leavesOf(await recorder.settled()).map(
      ({ connId, ts }) => ts - (seen.get(connId) ?? 0) - TTL_MS,
    );
    expect(late.length).toBe(12);
    const { count, max } = metrics.sweepLagMs;
    expect(count).toBe(1);
    expect(max).toBeGreaterThan(Math.max(...late) * 0.99 - 1);
    expect(max).toBeLessThan(Math.max(...late) * 1.01 + 1);
    // The other node has not reaped.
    expect(long.metrics()).toMatchObject({ sweeps: 0, roomsSwept: 0, expired: 0 });
    for (let i = 0; i < 2; i++) await long.leave(`v${i}`);
    for (let i = 0; i < 3; i++) await long.leave(`w${i}`);
  });

  async function allExpiredBut(count: number): Promise<void> {
    await eventually(async () => expect(await redis.keys('prs:conn:*')).toHaveLength(count));
  }

  test('6.6: rooms with nothing due are not inspected', async () => {
    const client = await store.connect();
    for (let i = 0; i < 50; i++) {
      await client.join({ roomId: `r${i}`, userId: 'u', connId: `c${i}`, snapshot: false });
    }
    for (let i = 0; i < 5; i++) expect((await client.reapOnce()).rooms).toBe(0);
    expect(client.metrics()).toMatchObject({ sweeps: 5, roomsSwept: 0, expired: 0, repairs: 0 });
  });

  test('6.6: rooms of legacy nodes count as inspected, and repairs as repairs', async () => {
    const client = await store.connect();
    for (let i = 0; i < 6; i++) {
      await foreignJoin(redis, { roomId: `r${i >> 1}`, userId: `u${i}`, connId: `c${i}` });
    }
    await redis.del('prs:conn:c0');
    await redis.zrem('prs:{room:r1}:last_seen', 'c2');
    const done = await client.reapOnce();
    expect(done).toStrictEqual({ rooms: 3, expired: 1, durationMs: expect.any(Number) });
    expect(client.metrics()).toMatchObject({ roomsSwept: 3, expired: 1, repairs: 2 });
    for (let i = 1; i < 6; i++) await client.leave(`c${i}`);
  });

  test('6.6: a running reaper counts its removals and their delay; each notification is counted', async () => {
    const options = { ttlMs: 150, sweepIntervalMs: 100, expiry: 'both' } as const;
    const client = await store.connect(options);
    const recorder = await record(await store.connect());
    await client.startReaper();
    await eventually(() => client.metrics().sweeps > 0);
    for (let i = 0; i < 40; i++) {
      await client.join({ roomId: `r${i % 8}`, userId: 'u', connId: `c${i}`, snapshot: false });
    }
    await eventually(() => leavesOf(recorder.events).length === 40);
    await allExpired();
    await eventually(() => expect(client.metrics().notifications).toBe(40));
    // A pass counts when it ends; its events are emitted before.
    await eventually(() => expect(client.metrics().expired).toBe(40));
    const metrics = client.metrics();
    expect(metrics).toMatchObject({ expired: 40, repairs: 0, sweepsFailed: 0 });
    expect(metrics.roomsSwept).toBeGreaterThanOrEqual(8);
    const seen = new Map(
      recorder.events.flatMap(({ type, connId, ts }) => (type === 'join' ? [[connId, ts]] : [])),
    );
    const late = leavesOf(recorder.events).map(
      ({ connId, ts }) => ts - (seen.get(connId) ?? 0) - 150,
    );
    // Each pass with removals reports their maximum delay.
    expect(metrics.sweepLagMs.count).toBeGreaterThan(0);
    expect(metrics.sweepLagMs.count).toBeLessThanOrEqual(40);
    expect(metrics.sweepLagMs.max).toBeGreaterThan(Math.max(...late) * 0.99 - 1);
    expect(metrics.sweepLagMs.max).toBeLessThan(Math.max(...late) * 1.01 + 1);
  });
});
