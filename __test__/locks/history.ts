// What Redis did to one lock, in its own order, as MONITOR tells it: who came when, who got the lock,
// who was taken out of the queue. Checks that nobody overtook anybody who was living.
import type { Redis } from 'ioredis';
import type { RedisServer } from '../support/redis.js';

/** How long a node counts as living after it was heard of; as in src/lock/queued_lock.rs. */
const LEASE_MS = 1_500;
/** Redis's own time within one script may differ from MONITOR's by this. */
const SLACK_MS = 20;

export class History {
  grants = 0;
  /** Waiters that were taken out of the queue because their node was not heard of. */
  readonly pruned: string[] = [];
  readonly violations: string[] = [];
  readonly #queue = new Map<string, number>();
  readonly #heard = new Map<string, number>();
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
      this.#heard.set(rest[1] ?? '', Number(rest[0]) - LEASE_MS);
    } else if (name === 'zrem' && key === queue) {
      this.#settle(now);
      const waiter = rest[0] ?? '';
      const place = this.#queue.get(waiter);
      if (place !== undefined) this.#leaving = { waiter, place };
      this.#queue.delete(waiter);
    } else if (name === 'hset' && key === holder && rest[0] === 'by') {
      const of = (field: string) => rest[rest.indexOf(field) + 1];
      this.#granted(now, `${of('number')} ${of('wake')}`);
    } else if (name === 'evalsha') {
      this.#settle(now);
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

  /** Who left the queue and did not get the lock was taken out. */
  #settle(now: number): void {
    if (this.#leaving !== undefined) this.#prune(now, this.#leaving.waiter);
    this.#leaving = undefined;
  }

  #prune(now: number, waiter: string): void {
    this.pruned.push(waiter);
    const heard = this.#heard.get(waiter.slice(waiter.indexOf(' ') + 1)) ?? 0;
    if (now - heard < LEASE_MS - SLACK_MS) {
      this.violations.push(`${waiter} was taken out ${now - heard} ms after it was heard of`);
    }
  }
}
