// The connections that this node answers for, with `liveness: "node"` (docs/internals/liveness.md).
// Their plain heartbeats are answered here while the node holds its lease, and are not sent.
//
// Races: a connection may end, or get another owner, while an answer about it is on its way to
// JavaScript. So an answer adds a connection only if nothing has removed the connection since the
// call was sent. A connection that is missing here costs one heartbeat through the core. One that
// is here by mistake would be answered as alive for ever.
//
// Lifetime: the timers hold this object weakly, so they do not prevent the collection of an unused
// client.

import type { NativeClient } from '../binding/binding.js';
import { coreClockOffset } from './core-clock.js';
import { DeferredLeaves, type LeaveIdle } from './deferred-leaves.js';
import { hasCode } from './errors.js';
import { IdleConnections } from './idle-connections.js';

export interface OwnershipOptions {
  readonly nodeWatchdogMs: number | undefined;
  readonly idleTimeoutMs: number | undefined;
}

/**
 * The calls in flight that may make this node the owner of a connection. It is replaced when the
 * connection is removed, so that earlier calls do not add it again.
 */
export interface PendingOwnership {
  readonly connId: string;
  calls: number;
  /** The highest epoch in an answer, because answers can overtake each other. */
  highestEpoch: number;
}

const MAX_WATCHDOG_PERIOD_MS = 1000;

export class OwnedConnections {
  readonly #core: NativeClient;
  readonly #watchdogPeriodMs: number;
  readonly #idle: IdleConnections | undefined;
  readonly #leaves: DeferredLeaves;
  readonly #epochs = new Map<string, number>();
  readonly #pending = new Map<string, PendingOwnership>();
  /** The time until which the lease is known to be held, by `performance.now()`. */
  #leaseEnds = Number.NEGATIVE_INFINITY;
  #timers: NodeJS.Timeout[] = [];
  /** Number of heartbeats that were answered here. */
  answered = 0;

  /** @param onError is called if idle connections cannot be removed. It is tried again. */
  constructor(
    core: NativeClient,
    { nodeWatchdogMs = Number.POSITIVE_INFINITY, idleTimeoutMs }: OwnershipOptions,
    leaveIdle: LeaveIdle,
    onError: (error: unknown) => void,
  ) {
    this.#core = core;
    this.#watchdogPeriodMs = Math.min(MAX_WATCHDOG_PERIOD_MS, nodeWatchdogMs / 4);
    this.#idle = idleTimeoutMs === undefined ? undefined : new IdleConnections(idleTimeoutMs);
    this.#leaves = new DeferredLeaves(
      (connId, epoch) => this.#whileRemoved(connId, () => leaveIdle(connId, epoch)),
      onError,
    );
  }

  /** The client is connected. */
  start(): void {
    const self = new WeakRef(this);
    this.#timers.push(repeat(self, OwnedConnections.#watch, this.#watchdogPeriodMs));
    if (this.#idle !== undefined) {
      this.#timers.push(repeat(self, OwnedConnections.#endIdle, this.#idle.periodMs));
    }
  }

  /** The client is closed. */
  end(): void {
    for (const timer of this.#timers) {
      stopRepeating(timer);
    }
    this.#timers = [];
    this.leaseLost();
  }

  /**
   * The epoch with which to answer a heartbeat without a patch, whose own epoch is -1 if it has
   * none. -1: the heartbeat must go to the core.
   */
  answer(connId: string, epoch: number): number {
    const owned = this.#epochs.get(connId);
    if (owned === undefined || (epoch !== owned && epoch !== -1)) {
      return -1;
    }
    const now = performance.now();
    if (now >= this.#leaseEnds && !this.#holdsLease()) {
      return -1;
    }
    this.#idle?.refresh(connId, owned, now);
    this.answered++;
    return owned;
  }

  /** Sends a join. */
  async join(connId: string, send: () => Promise<number>): Promise<number> {
    this.#remove(connId);
    const request = this.#request(connId);
    try {
      const epoch = await send();
      this.succeeded(request, epoch);
      return epoch;
    } catch (error) {
      this.failed(request, error);
      throw error;
    }
  }

  /** A heartbeat is about to be sent. */
  heartbeating(connId: string, epoch: number): PendingOwnership {
    // Before its outcome is known: while the store is down, a client that sends heartbeats is not
    // idle.
    this.#idle?.refresh(connId, epoch, performance.now());
    return this.#request(connId);
  }

  /** A join or a heartbeat has succeeded. */
  succeeded(request: PendingOwnership, epoch: number): void {
    const { connId } = request;
    const current = this.#pending.get(connId);
    if (current !== undefined) {
      current.highestEpoch = Math.max(current.highestEpoch, epoch);
    }
    const owned = this.#epochs.get(connId);
    if (owned !== undefined && owned < epoch) {
      this.#epochs.delete(connId);
    }
    if (current === request) {
      // It was sent after the leave that failed.
      this.#leaves.cancel(connId);
      if (epoch === current.highestEpoch) {
        this.#epochs.set(connId, epoch);
      }
    }
    this.#answered(request);
    this.#idle?.add(connId, epoch);
  }

  /** A join or a heartbeat has failed. */
  failed(request: PendingOwnership, error: unknown): void {
    this.#answered(request);
    if (hasCode(error, 'CONNECTION_NOT_FOUND', 'STALE_EPOCH')) {
      this.#remove(request.connId);
    }
  }

  /**
   * Sends a leave. If it fails, the connection is left later, unless a heartbeat or a join comes
   * first: it has no TTL that would end it.
   *
   * @param epoch of the leave; -1 for none.
   */
  async leave<Result>(
    connId: string,
    epoch: number,
    send: () => Promise<Result | null>,
  ): Promise<Result | null> {
    const owned = epoch === -1 ? (this.#epochs.get(connId) ?? this.#idle?.epochOf(connId)) : epoch;
    try {
      const left = await this.#whileRemoved(connId, send);
      // Otherwise it may have a newer epoch.
      if (left !== null && owned !== undefined) {
        this.#idle?.remove(connId, owned);
      }
      return left;
    } catch (error) {
      if (owned !== undefined && !hasCode(error, 'INVALID_ARGUMENT')) {
        this.#idle?.remove(connId, owned);
        this.#leaves.add(connId, owned);
      }
      throw error;
    }
  }

  /** The core reports that this node does not own the connection any more. */
  dispossessed(connId: string, epoch: number): void {
    this.#pending.delete(connId);
    if (this.#epochs.get(connId) === epoch) {
      this.#epochs.delete(connId);
    }
    if (this.#idle?.epochOf(connId) === epoch) {
      this.#idle.remove(connId, epoch);
    }
  }

  /** The core reports that it has joined the connection again, because the store had lost it. */
  restored(connId: string, epoch: number): void {
    const pending = this.#pending.get(connId);
    if (pending !== undefined) {
      pending.highestEpoch = Math.max(pending.highestEpoch, epoch);
    }
    const owned = this.#epochs.get(connId);
    if (owned !== undefined && owned < epoch) {
      this.#epochs.set(connId, epoch);
    }
    this.#idle?.raiseEpoch(connId, epoch);
    this.#leaves.raiseEpoch(connId, epoch);
  }

  /** The core reports that this node owns none of its connections any more. */
  leaseLost(): void {
    this.forget();
    this.#idle?.clear();
    this.#leaves.clear();
  }

  /** Reports of the core may have been lost: the core answers the next heartbeat of each. */
  forget(): void {
    this.#leaseEnds = Number.NEGATIVE_INFINITY;
    this.#epochs.clear();
    this.#pending.clear();
  }

  #remove(connId: string): void {
    this.#epochs.delete(connId);
    this.#pending.delete(connId);
  }

  /** Removed again afterwards: calls that were sent in the meantime may have added it. */
  async #whileRemoved<Result>(connId: string, send: () => Promise<Result>): Promise<Result> {
    this.#remove(connId);
    try {
      return await send();
    } finally {
      this.#remove(connId);
    }
  }

  #request(connId: string): PendingOwnership {
    let request = this.#pending.get(connId);
    if (request === undefined) {
      request = { connId, calls: 0, highestEpoch: -1 };
      this.#pending.set(connId, request);
    }
    request.calls++;
    return request;
  }

  #answered(request: PendingOwnership): void {
    if (--request.calls === 0 && this.#pending.get(request.connId) === request) {
      this.#pending.delete(request.connId);
    }
  }

  /** Asks the core, which may have renewed the lease. The core counts this as a sign of life. */
  #holdsLease(): boolean {
    try {
      const ends = this.#core.nodeLease();
      this.#leaseEnds = ends < 0 ? Number.NEGATIVE_INFINITY : ends + coreClockOffset(this.#core);
    } catch {
      // The core has failed. It reports that to the heartbeats that it gets.
      this.#leaseEnds = Number.NEGATIVE_INFINITY;
    }
    return performance.now() < this.#leaseEnds;
  }

  // The timers call these. They are static, because a closure would hold the object.

  static #watch(owned: OwnedConnections): void {
    owned.#holdsLease();
    void owned.#leaves.run();
  }

  static #endIdle(owned: OwnedConnections): void {
    for (const [connId, epoch] of owned.#idle?.take() ?? []) {
      owned.#remove(connId);
      owned.#leaves.add(connId, epoch);
    }
    void owned.#leaves.run();
  }
}

// The global functions may be replaced by fake timers. The core would then stop renewing the lease.
const startRepeating = setInterval;
const stopRepeating = clearInterval;

/** Calls `work` until the object is collected. Does not keep the process alive. */
function repeat<T extends object>(
  target: WeakRef<T>,
  work: (target: T) => void,
  periodMs: number,
): NodeJS.Timeout {
  const timer = startRepeating(() => {
    const found = target.deref();
    if (found === undefined) {
      stopRepeating(timer);
    } else {
      work(found);
    }
  }, periodMs);
  timer.unref();
  return timer;
}
