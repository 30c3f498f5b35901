// What the tests of locks need on top of the stores: what stays of a lock, recorded events.
import type { Redis } from 'ioredis';
import type { Lock, LockEvent } from 'rollcall';
import { afterEach } from 'vitest';
import { sharedCluster } from '../support/cluster.js';
import { eventually } from '../support/wait.js';
import { type Client, ofCluster, type StoreUnderTest } from './stores.js';

/** The newest token of a lock stays for a week; everything else must be gone after each test. */
export function onlyTokensStay(store: StoreUnderTest): void {
  afterEach(async () => {
    if (store.name === 'memory') return;
    if (store.name === 'cluster') {
      const cluster = await sharedCluster();
      for (const master of await cluster.masters()) await forgetTokens(await cluster.on(master));
      return;
    }
    const { server, db } = store.redis();
    const redis = await server.client(db);
    await forgetTokens(redis);
    redis.disconnect();
  });
}

async function forgetTokens(redis: Redis): Promise<void> {
  for (const key of await redis.keys('prs:{*lock:*}:token')) await redis.del(key);
}

export interface LockRecorder {
  readonly events: LockEvent[];
  /**
   * The events so far, complete: a marker is locked and released after them. On a cluster, events of one
   * master come in their order, so there is a marker on each.
   */
  settled(): Promise<LockEvent[]>;
  stop(): Promise<void>;
}

/** An event in a few words: `acquired x ada`. */
export function brief({ type, name, ownerId }: LockEvent): string {
  return `${type} ${name} ${ownerId}`;
}

const MARKER = 'marker-of-the-tests';
let markers = 0;

/** Subscribes to the events of all locks, or of one. */
export async function recordLocks(
  client: Client,
  options: { name?: string } = {},
): Promise<LockRecorder> {
  const events: LockEvent[] = [];
  const released = new Set<string>();
  const stop = await client.locks.subscribe((event) => {
    if (!event.ownerId.startsWith(MARKER)) events.push(event);
    else if (event.type === 'released') released.add(event.ownerId);
  }, options);
  const settled = async () => {
    const number = ++markers;
    // Locks with these names have their slots on the third, second and first of three masters.
    const names = ofCluster.has(client) ? [0, 1, 2].map((i) => `${MARKER}${i}`) : [MARKER];
    for (const [i, name] of (options.name === undefined ? names : [options.name]).entries()) {
      const ownerId = `${MARKER}-${number}-${i}`;
      const lock: Lock = await client.locks.acquire(name, { ownerId, waitMs: 5000 });
      await lock.release();
      await eventually(() => released.has(ownerId), { intervalMs: 1 });
    }
    return [...events];
  };
  if (ofCluster.has(client)) {
    // What was published before, by the test before, may still be on the cluster's bus.
    await settled();
    events.length = 0;
  }
  return { events, stop, settled };
}

/** Resolves when the signal fires, to its reason. */
export function fired(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener('abort', () => resolve(signal.reason), { once: true });
  });
}
