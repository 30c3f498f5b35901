// The connections that a service has joined, for the socket sessions: the epoch of a join, joins
// and leaves that the server makes itself, and results that a wrapper around the service does not
// pass on.

import type { RollcallError } from '../errors.js';
import type { HeartbeatResult } from '../types.js';

/** The place of a connection. */
export interface Place {
  readonly roomId: string;
  readonly userId: string;
}

/** The arguments of a join. */
export interface Joining extends Place {
  readonly state: object | undefined;
}

/** Gets the calls of a service for one connection. */
export interface ConnectionWatcher {
  /** A join is being sent; `epoch` resolves to its epoch, or rejects. */
  joining(joining: Joining, epoch: Promise<number>): void;
  /** The connection has been removed from its room. */
  left(): void;
}

/** The service's method with which a session watches a connection. */
export const WATCH = Symbol('rollcall.watch');

/**
 * The field of a heartbeat's options for the results that `heartbeat()` does not return. It is a
 * symbol, so a wrapper that spreads the options passes it on, and it appears in no log and no JSON.
 */
export const REPORT = Symbol('rollcall.report');

export interface HeartbeatReport {
  result?: HeartbeatResult;
  /** Why the heartbeat resolves to `false`: `CONNECTION_NOT_FOUND` or `STALE_EPOCH`. */
  error?: RollcallError;
}

/**
 * The maximum number of unwatched joins that are kept: joins that a server makes before the
 * handlers see the socket, in a middleware or in its own listener. Above it, the oldest is dropped.
 */
const MAX_UNWATCHED = 10_000;

export class WatchedConnections {
  readonly #watchers = new Map<string, Set<ConnectionWatcher>>();
  readonly #unwatched = new Map<string, { joining: Joining; epoch: Promise<number> }>();

  /** Starts with an earlier join, if there is one. Returns a function that stops watching. */
  watch(connId: string, watcher: ConnectionWatcher): () => void {
    const watchers = this.#watchers.get(connId) ?? new Set();
    this.#watchers.set(connId, watchers);
    watchers.add(watcher);
    const earlier = this.#unwatched.get(connId);
    if (earlier !== undefined) {
      this.#unwatched.delete(connId);
      watcher.joining(earlier.joining, earlier.epoch);
    }
    return () => {
      watchers.delete(watcher);
      if (watchers.size === 0 && this.#watchers.get(connId) === watchers) {
        this.#watchers.delete(connId);
      }
    };
  }

  joining(connId: string, joining: Joining, epoch: Promise<number>): void {
    const watchers = this.#watchers.get(connId);
    if (watchers !== undefined) {
      for (const watcher of watchers) {
        watcher.joining(joining, epoch);
      }
      return;
    }
    // The caller gets the rejection.
    epoch.catch(() => {});
    this.#unwatched.delete(connId);
    this.#unwatched.set(connId, { joining, epoch });
    if (this.#unwatched.size > MAX_UNWATCHED) {
      const [oldest] = this.#unwatched.keys();
      this.#unwatched.delete(oldest as string);
    }
  }

  left(connId: string): void {
    this.#unwatched.delete(connId);
    for (const watcher of this.#watchers.get(connId) ?? []) {
      watcher.left();
    }
  }
}
