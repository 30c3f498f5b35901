// Helpers of the lock tests: keys that may stay after a test, and recorded events.
import type { Redis } from 'ioredis';
import type { Lock, LockEvent } from 'rollcall';
import { afterEach } from 'vitest';
import { sharedCluster } from '../support/cluster.js';
import { eventually } from '../support/wait.js';
import { type Client, ofCluster, type StoreUnderTest } from './stores.js';

/** The last token of a lock stays for a week; all other keys must be gone after each test. */
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
   * All events so far. It locks and releases a marker, and waits for its events. On a cluster, only
   * the events of one master are in order, so there is a marker on each.
   */
  settled(): Promise<LockEvent[]>;
  stop(): Promise<void>;
}

/** An event as short text: `acquired x ada`. */
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
    // The slots of these names are on the third, second and first of three masters.
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
    // Events of the previous test may still be on the cluster's bus.
    await settled();
    events.length = 0;
  }
  return { events, stop, settled };
}

/** Resolves to the signal's reason when the signal fires. */
export function fired(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener('abort', () => resolve(signal.reason), { once: true });
  });
}
