// The history of one lock in the order of Redis, from MONITOR: arrivals, grants, and waiters
// removed from the queue. Checks that no living waiter is overtaken.
import type { Redis } from 'ioredis';
import type { RedisServer } from '../support/redis.js';

/** How long a node counts as living after its last sign of life; as in src/lock/queued_lock.rs. */
const LEASE_MS = 1_500;
/** Redis's time within one script may differ from that of MONITOR by this amount. */
const SLACK_MS = 20;

export class History {
  grants = 0;
  /** Waiters that were removed from the queue because their node gave no sign of life. */
  readonly pruned: string[] = [];
  readonly violations: string[] = [];
  readonly #queue = new Map<string, number>();
  readonly #lastSeen = new Map<string, number>();
  readonly #keys: { queue: string; living: string; holder: string };
  #leaving: { waiter: string; place: number } | undefined;
  #monitor: Redis | undefined;

  private constructor(name: string) {
    const part = (what: string) => `prs:{prs:lock:${name}}:${what}`;
    this.#keys = { queue: part('queue'), living: part('living'), holder: part('holder') };
  }

  static async of(server: RedisServer, name: string): Promise<History> {
    const history = new History(name);
    const monitor = await (await server.client()).monitor();
    history.#monitor = monitor;
    monitor.on('monitor', (time: string, args: string[]) =>
      history.#see(Number(time) * 1000, args),
    );
    return history;
  }

  stop(): void {
    this.#monitor?.disconnect();
  }

  #see(now: number, [command, key, ...rest]: string[]): void {
    const { queue, living, holder } = this.#keys;
    const name = command?.toLowerCase();
    if (name === 'zadd' && key === queue) {
      this.#queue.set(rest[1] ?? '', Number(rest[0]));
    } else if (name === 'zadd' && key === living) {
      this.#lastSeen.set(rest[1] ?? '', Number(rest[0]) - LEASE_MS);
    } else if (name === 'zrem' && key === queue) {
      this.#finish(now);
      const waiter = rest[0] ?? '';
      const place = this.#queue.get(waiter);
      if (place !== undefined) this.#leaving = { waiter, place };
      this.#queue.delete(waiter);
    } else if (name === 'hset' && key === holder && rest[0] === 'by') {
      const of = (field: string) => rest[rest.indexOf(field) + 1];
      this.#granted(now, `${of('number')} ${of('wake')}`);
    } else if (name === 'evalsha') {
      this.#finish(now);
    }
  }

  #granted(now: number, waiter: string): void {
    this.grants++;
    const leaving = this.#leaving;
    this.#leaving = undefined;
    if (leaving !== undefined && leaving.waiter !== waiter) this.#prune(now, leaving.waiter);
    const place = leaving?.waiter === waiter ? leaving.place : Number.POSITIVE_INFINITY;
    for (const [other, before] of this.#queue) {
      if (before < place) this.violations.push(`${waiter} overtook ${other}`);
    }
  }

  /** A waiter that leaves the queue without the lock was removed. */
  #finish(now: number): void {
    if (this.#leaving !== undefined) this.#prune(now, this.#leaving.waiter);
    this.#leaving = undefined;
  }

  #prune(now: number, waiter: string): void {
    this.pruned.push(waiter);
    const lastSeen = this.#lastSeen.get(waiter.slice(waiter.indexOf(' ') + 1)) ?? 0;
    if (now - lastSeen < LEASE_MS - SLACK_MS) {
      this.violations.push(
        `${waiter} was removed ${now - lastSeen} ms after its last sign of life`,
      );
    }
  }
}
