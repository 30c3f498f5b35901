// Reapers as separate processes (spec 6.1, 6.3): they are killed, race, are stopped past their
// claims, or have wrong clocks.
import { PresenceClient } from 'rollcall';
import { beforeEach, describe, expect, test } from 'vitest';
import { locateFaketime } from '../../scripts/lib/faketime.mjs';
import { type AnyState, type Client, type Recorder, silent } from '../conformance/stores.js';
import { untilStopped } from '../support/process.js';
import { startProxy } from '../support/proxy.js';
import type { RedisServer } from '../support/redis.js';
import { deferred, eventually, within } from '../support/wait.js';
import { CALLS } from './calls.js';
import { expectOnce, expectTimely, leavesOf, MARGIN_MS, millis, startRecorded } from './expiry.js';
import { endAll, startNode } from './nodes.js';

const TTL_MS = 500;

let server: RedisServer;
/** Join with the common TTL, or with one that outlives the test; neither client reaps. */
let short: Client;
let long: Client;
let recorder: Recorder;

beforeEach(async () => {
  const world = await startRecorded();
  ({ server, long, recorder } = world);
  short = await PresenceClient.connect<AnyState>({
    url: server.url,
    ttlMs: TTL_MS,
    logger: silent,
  });
  return async () => {
    await short.close();
    await world[Symbol.asyncDispose]();
  };
});

function place(i: number) {
  return { roomId: `r${i % 20}`, userId: `u${i % 17}`, connId: `c${i}`, snapshot: false };
}
const rooms = Array.from({ length: 20 }, (_, i) => `r${i}`);

describe('reapers', () => {
  test('6.3: SIGKILL in the middle of a sweep: the others do the rest in time', async () => {
    await using proxy = await startProxy(server.port);
    const killed = deferred<string>();
    // The node that is killed sweeps so often that it makes all passes.
    const victim = await startNode({ ttlMs: TTL_MS, url: proxy.url, sweepIntervalMs: 100 });
    const others = [
      await startNode({ ttlMs: TTL_MS, url: server.url, sweepIntervalMs: 1000 }),
      await startNode({ ttlMs: TTL_MS, url: server.url, sweepIntervalMs: 1000 }),
    ];
    let reaps = 0;
    proxy.watch = async (piece) => {
      const text = piece.toString('latin1');
      if (!CALLS.reap.test(text) || ++reaps < 3) return piece;
      await victim.kill();
      // It is killed after half of its calls: some rooms are done, one is partly done, others are
      // only claimed.
      killed.resolve(text.slice(0, 40));
      return piece.subarray(0, piece.length / 2);
    };
    for (const node of [victim, ...others]) await node.call('startReaper');
    // In sequence, so that they are due in several of its passes.
    const lastSeen = new Map<string, number>();
    const redis = await server.client();
    for (let i = 0; i < 300; i++) {
      const { epoch } = await short.join(place(i));
      lastSeen.set(`c${i}`, epoch);
      if (i % 30 === 29) await eventually(async () => (await millis(redis)) > epoch + 20);
    }
    await within(killed.promise, 5000, 'the third reap');
    await eventually(() => leavesOf(recorder.events).length >= 300, { timeoutMs: 10_000 });
    expectTimely(leavesOf(await recorder.settled()), lastSeen, {
      ttlMs: TTL_MS,
      latestMs: 1000 + MARGIN_MS,
    });
    const answers = await Promise.all(others.map((node) => node.call('metrics')));
    const byOthers = answers.reduce((sum, { metrics }) => sum + (metrics?.expired ?? 0), 0);
    expect(byOthers).toBeGreaterThan(0);
    expect(await server.dbsize()).toBe(0);
    await endAll(...others);
  });

  test('6.3: three racing reapers: one leave each, and none for connections that joined again in time', async () => {
    const nodes = await Promise.all(
      [1, 2, 3].map(() => startNode({ ttlMs: TTL_MS, url: server.url, sweepIntervalMs: 100 })),
    );
    for (const node of nodes) await node.call('race');
    const joins = new Map<string, string>();
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 300; i++) {
        // A third of them joins again each time, before or after the expiry.
        if (round > 0 && i % 3 > 0) continue;
        const { epoch } = await short.join(place(i));
        joins.set(`c${i} ${epoch}`, `c${i}`);
      }
      if (round < 2) {
        const gone = `prs:conn:c${(round + 1) * 90}`;
        const redis = await server.client();
        await eventually(async () => (await redis.exists(gone)) === 0, { intervalMs: 1 });
      }
    }
    await eventually(async () => (await server.dbsize()) === 0);
    const leaves = leavesOf(await recorder.settled());
    expectOnce(leaves);
    for (const { connId, epoch } of leaves) expect(joins.get(`${connId} ${epoch}`)).toBe(connId);
    // A join of a present connection has no leave before it; every other join has.
    const sequences = new Map<string, string[]>();
    for (const { connId, type } of await recorder.settled()) {
      sequences.set(connId, [...(sequences.get(connId) ?? []), type]);
    }
    for (const [connId, types] of sequences) {
      expect(types.at(-1), connId).toBe('leave');
      expect(types.join(' '), connId).not.toContain('leave leave');
    }
    const metrics = await Promise.all(nodes.map((node) => node.call('metrics')));
    const removed = metrics.reduce((sum, answer) => sum + (answer.metrics?.expired ?? 0), 0);
    expect(removed).toBeGreaterThan(200);
    expect(removed).toBeLessThanOrEqual(leaves.length);
    await endAll(...nodes);
  });

  test.each([
    ['rooms', 'after it has read what is due'],
    ['candidates', 'after it has read the candidates'],
    ['reap', 'before it removes them'],
  ] as const)('6.3: SIGSTOP past the claim, at %s: %s; then SIGCONT', async (call, _) => {
    await using proxy = await startProxy(server.port);
    const stopped = deferred();
    const resumed = deferred();
    const victim = await startNode({ ttlMs: TTL_MS, url: proxy.url, sweepIntervalMs: 100 });
    const other = await startNode({ ttlMs: TTL_MS, url: server.url, sweepIntervalMs: 100 });
    let seen = false;
    proxy.watch = async (piece) => {
      if (seen || !CALLS[call].test(piece.toString('latin1'))) return piece;
      seen = true;
      process.kill(victim.pid, 'SIGSTOP');
      await untilStopped(victim.pid);
      stopped.resolve();
      // A reap reaches Redis only after everything has changed; for the other calls, the answers
      // are stale by then.
      if (call === 'reap') await resumed.promise;
      return piece;
    };
    // One call for each.
    const expected: string[] = [];
    const rejoin = async (i: number, to: object = {}) => {
      await long.join({ ...place(i), ...to });
    };
    const all = Array.from({ length: 60 }, (_, i) => i);
    for (const joined of await Promise.all(all.map((i) => short.join(place(i))))) {
      expected.push(`c${expected.length} ${joined.epoch}`);
    }
    await eventually(async () => {
      const redis = await server.client();
      expect(await redis.keys('prs:conn:*')).toEqual([]);
      redis.disconnect();
    });
    const started = victim.call('startReaper');
    await within(stopped.promise, 5000, `the call for ${call}`);

    // They join again before they are removed: in their place, in another room, or as another user.
    for (let i = 0; i < 10; i++) await rejoin(i);
    for (let i = 10; i < 20; i++) await rejoin(i, { roomId: 'elsewhere' });
    for (let i = 20; i < 30; i++) await rejoin(i, { userId: 'somebody' });
    // When the claim has expired, another reaper removes the rest, and then some connections join
    // again.
    await other.call('startReaper');
    await eventually(() => leavesOf(recorder.events).length >= 60);
    for (let i = 30; i < 40; i++) await rejoin(i);
    resumed.resolve();
    process.kill(victim.pid, 'SIGCONT');
    await started;
    // The other reaper has ended, so this one makes the passes again.
    await endAll(other);
    const { metrics: before } = await victim.call('metrics');
    await eventually(async () => {
      const { metrics: after } = await victim.call('metrics');
      expect(after?.sweeps).toBeGreaterThan((before?.sweeps ?? 0) + 2);
    });

    const leaves = leavesOf(await recorder.settled());
    expect(leaves.map(({ connId, epoch }) => `${connId} ${epoch}`).sort()).toEqual(expected.sort());
    expect(leaves.every(({ reason }) => reason === 'timeout')).toBe(true);
    const { metrics } = await victim.call('metrics');
    expect(metrics?.expired).toBe(0);
    for (let i = 0; i < 40; i++) expect(await long.leave(`c${i}`), `c${i}`).not.toBeNull();
    expect(await server.dbsize()).toBe(0);
    await endAll(victim);
  });
});

describe('clocks', () => {
  const library = locateFaketime();

  test('6.1: nodes with clocks 60 s fast and slow', async ({ skip }) => {
    if (library === undefined) {
      console.log('Skipped: libfaketime is not there (Debian: apt-get install faketime)');
      skip('libfaketime is not there');
      return;
    }
    const ttlMs = 1200;
    const start = (FAKETIME: string) =>
      startNode(
        { url: server.url, ttlMs, sweepIntervalMs: 200 },
        { LD_PRELOAD: library, FAKETIME, FAKETIME_DONT_FAKE_MONOTONIC: '1' },
      );
    const nodes = [await start('+60s'), await start('-60s')] as const;
    const redis = await server.client();
    const now = () => millis(redis);
    const at = await now();
    expect(Math.abs(nodes[0].clock - at - 60_000)).toBeLessThan(15_000);
    expect(Math.abs(nodes[1].clock - at + 60_000)).toBeLessThan(15_000);

    const alive: string[] = [];
    const lastSeen = new Map<string, number>();
    for (const [n, node] of nodes.entries()) {
      const items = Array.from({ length: 60 }, (_, i) => place(2 * i + n));
      const kept = items.filter((_, i) => i % 3 === 0).map(({ connId }) => connId);
      alive.push(...kept);
      const { epochs = [] } = await node.call('join', { items, alive: kept, everyMs: 150 });
      for (const [i, { connId }] of items.entries()) {
        if (i % 3 > 0) lastSeen.set(connId, epochs[i] ?? 0);
      }
    }
    for (const node of nodes) await node.call('startReaper');
    await eventually(() => leavesOf(recorder.events).length >= lastSeen.size);
    // And for another TTL: heartbeats keep the others alive.
    const end = (await now()) + ttlMs + 1000;
    await eventually(async () => (await now()) > end);
    const late = { ttlMs, latestMs: 200 + MARGIN_MS };
    expectTimely(leavesOf(await recorder.settled()), lastSeen, late);
    for (const { ts, epoch } of recorder.events) {
      expect(Math.abs(ts - at)).toBeLessThan(30_000);
      expect(Math.abs(epoch - at)).toBeLessThan(30_000);
    }
    // Snapshots of a node with a correct clock, and the expiry of the rest.
    const found = await Promise.all(rooms.map((room) => long.fetchRoomSnapshot(room)));
    const there = found.flat().map(({ connId }) => connId);
    expect(there.sort()).toEqual(alive.sort());
    for (const connId of alive) await long.leave(connId);
    expect(await server.dbsize()).toBe(0);
    await endAll(...nodes);
  });
});
