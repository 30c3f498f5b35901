// What a service knows of the connections that it has joined, for the socket sessions: the epoch of a
// join, joins and leaves that the server makes itself, and outcomes that a wrapper around the service
// does not pass on.

import type { RollcallError } from '../errors.js';
import type { HeartbeatResult } from '../types.js';

/** Where a connection is. */
export interface Place {
  readonly roomId: string;
  readonly userId: string;
}

/** What is sent with a join. */
export interface Joining extends Place {
  readonly state: object | undefined;
}

/** Is notified of the calls that a service makes for one connection. */
export interface ConnectionWatcher {
  /** A join is being sent; `epoch` resolves with that of the join, or rejects. */
  joining(joining: Joining, epoch: Promise<number>): void;
  /** The connection has been taken out of its room. */
  left(): void;
}

/** The method of a service by which a session watches a connection. */
export const WATCH = Symbol('rollcall.watch');

/**
 * The field of a heartbeat's options in which the service puts what `heartbeat()` does not resolve to. A
 * symbol: a wrapper that spreads the options hands it on, and it is in no log and no JSON.
 */
export const REPORT = Symbol('rollcall.report');

export interface HeartbeatReport {
  result?: HeartbeatResult;
  /** Why the heartbeat resolves to `false`: `CONNECTION_NOT_FOUND` or `STALE_EPOCH`. */
  error?: RollcallError;
}

/**
 * Joins that nobody watches and that are kept: those that a server makes before the handlers see the
 * socket, in a middleware or in a listener of its own. Beyond it, the oldest is forgotten.
 */
const MAX_UNWATCHED = 10_000;

export class WatchedConnections {
  readonly #watchers = new Map<string, Set<ConnectionWatcher>>();
  readonly #unwatched = new Map<string, { joining: Joining; epoch: Promise<number> }>();

  /** Begins with a join that was made before. Returns what ends it. */
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
    // The caller has the rejection.
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
