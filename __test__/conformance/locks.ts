// What the tests of locks need on top of the stores: what stays of a lock, recorded events.
import type { Redis } from 'ioredis';
import type { Lock, LockEvent } from 'rollcall';
import { afterEach } from 'vitest';
import { sharedCluster } from '../support/cluster.js';
import type { Client, StoreUnderTest } from './stores.js';

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
  /** The events so far, complete: those of another lock come after them. */
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
  let marked: (() => void) | undefined;
  let marker = '';
  const stop = await client.locks.subscribe((event) => {
    if (!event.ownerId.startsWith(MARKER)) events.push(event);
    else if (event.ownerId === marker && event.type === 'released') marked?.();
  }, options);
  return {
    events,
    stop,
    settled: async () => {
      marker = `${MARKER}-${++markers}`;
      const heard = new Promise<void>((resolve) => {
        marked = resolve;
      });
      const lock: Lock = await client.locks.acquire(options.name ?? MARKER, {
        ownerId: marker,
        waitMs: 5000,
      });
      await lock.release();
      await heard;
      return [...events];
    },
  };
}

/** Resolves when the signal fires, to its reason. */
export function fired(signal: AbortSignal): Promise<unknown> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    else signal.addEventListener('abort', () => resolve(signal.reason), { once: true });
  });
}
