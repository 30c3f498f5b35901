// Helpers of the expiry tests: the last heartbeat of each connection in Redis time, and the delay
// of its `leave`.
import type { Redis } from 'ioredis';
import { type JoinOptions, PresenceClient, type PresenceLeaveEvent } from 'rollcall';
import { expect } from 'vitest';
import {
  type AnyEvent,
  type AnyState,
  type Client,
  LONG_TTL_MS,
  record,
  silent,
} from '../conformance/stores.js';
import { startRedis } from '../support/redis.js';
import { slowness } from '../support/wait.js';

/**
 * A Redis server for the test, and a client that subscribes to all rooms and whose connections
 * outlive the test.
 */
export async function startRecorded() {
  const server = await startRedis();
  const long: Client = await PresenceClient.connect<AnyState>({
    url: server.url,
    ttlMs: LONG_TTL_MS,
    logger: silent,
  });
  return {
    server,
    redis: await server.client(),
    long,
    recorder: await record(long),
    async [Symbol.asyncDispose]() {
      await long.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Tolerance for a busy machine, in addition to the promised delay. */
export const MARGIN_MS = 1500;

/** The time of Redis. */
export async function millis(redis: Redis): Promise<number> {
  const [seconds, micros] = await redis.time();
  return Number(seconds) * 1000 + Math.floor(Number(micros) / 1000);
}

export function leavesOf(events: readonly AnyEvent[]): PresenceLeaveEvent[] {
  return events.filter((event) => event.type === 'leave');
}

/**
 * Joins all connections, and returns the join time of each: a new connection's epoch is the time of
 * its join.
 */
export async function joinAll(
  client: Client,
  places: readonly JoinOptions<AnyState>[],
): Promise<Map<string, number>> {
  const joined = await Promise.all(
    places.map((place) => client.join({ ...place, snapshot: false })),
  );
  return new Map(places.map(({ connId }, i) => [connId, joined[i]?.epoch ?? 0]));
}

/** The last heartbeat of each connection, from the indices of the rooms. */
export async function readLastSeen(
  redis: Redis,
  roomIds: Iterable<string>,
): Promise<Map<string, number>> {
  const read = redis.pipeline();
  for (const roomId of roomIds)
    read.zrange(`prs:{room:${roomId}}:last_seen`, '0', '-1', 'WITHSCORES');
  const lastSeen = new Map<string, number>();
  for (const [error, entries] of (await read.exec()) ?? []) {
    if (error) throw error;
    const flat = entries as string[];
    for (let at = 0; at < flat.length; at += 2) {
      lastSeen.set(flat[at] as string, Number(flat[at + 1]));
    }
  }
  return lastSeen;
}

/**
 * Each connection of `lastSeen` has timed out with exactly one leave, after its TTL and at most
 * `latestMs` later (more on a busy machine).
 */
export function expectTimely(
  leaves: readonly PresenceLeaveEvent[],
  lastSeen: ReadonlyMap<string, number>,
  { ttlMs, latestMs }: { ttlMs: number; latestMs: number },
): void {
  expect(leaves.map(({ connId }) => connId).sort()).toEqual([...lastSeen.keys()].sort());
  for (const { connId, reason, state, ts } of leaves) {
    expect([reason, state], connId).toEqual(['timeout', null]);
    const late = ts - (lastSeen.get(connId) ?? 0) - ttlMs;
    expect(late, `${connId} left before its time`).toBeGreaterThanOrEqual(0);
    expect(late, `${connId} left late`).toBeLessThanOrEqual(latestMs * slowness());
  }
}

/** No connection has two leaves for one join. */
export function expectOnce(leaves: readonly PresenceLeaveEvent[]): void {
  const keys = leaves.map(({ connId, epoch }) => `${connId} ${epoch}`);
  expect(keys.filter((key, at) => keys.indexOf(key) !== at)).toEqual([]);
}
