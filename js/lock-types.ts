// The public types of locks. No code.

/** Options of an acquire call. */
export interface AcquireOptions {
  /** The owner: the value of `prs:lock:<name>`, which metadata guarded by the lock check. */
  ownerId: string;
  /**
   * The lease time without a renewal. Milliseconds, at least 10, default 10 000. When this process
   * dies, others wait for this time.
   */
  ttlMs?: number;
  /**
   * The maximum duration of the call: the time in the queue, and that for connecting, subscribing
   * and the answers of Redis. Milliseconds, default 0: a single attempt, within
   * `limits.commandTimeoutMs`. `Infinity`: until the lock is acquired, or `signal` fires.
   */
  waitMs?: number;
  /**
   * Whether the lock is renewed at every third of its TTL until it is released, even while the
   * JavaScript thread is busy. Default `true`.
   */
  autoRenew?: boolean;
  /**
   * Ends the waiting: the call rejects with `LOCK_UNAVAILABLE`, whose `cause` is the signal's
   * reason, and leaves the queue.
   */
  signal?: AbortSignal;
}

/** A held lock. `await using` releases it. */
export interface Lock {
  readonly name: string;
  readonly ownerId: string;
  /**
   * Greater than the token of every earlier grant of this name. Pass it along with writes under the
   * lock, so that late writes can be refused.
   */
  readonly fencingToken: number;
  /**
   * The time until which the lock is certainly held: milliseconds since 1970 on this process's
   * clock. Grows with every renewal.
   */
  readonly expiresAt: number;
  /**
   * Fires when the lock is lost: not renewed in time, revoked, or overwritten. It fires before the
   * lock can be granted to another client; its `reason` is a `LOCK_LOST` error. Reading `aborted`
   * checks the clock, so it is correct even directly after the process was stopped. It does not
   * fire for a release.
   */
  readonly lost: AbortSignal;
  /**
   * Sets a new TTL, which starts now.
   *
   * @param ttlMs - the TTL, for this lease and its later renewals. Default: the current one.
   * @throws `LOCK_LOST` if it is not held any more; `lost` has then fired.
   */
  extend(ttlMs?: number): Promise<void>;
  /**
   * Releases the lock; the first waiter gets it at once. The lock is not renewed any more. A second
   * call returns the same Promise.
   *
   * @throws `LOCK_LOST` if it was not held any more. `UNAVAILABLE` or `TIMEOUT` with
   * `outcome: "unknown"` if Redis did not answer within `limits.commandTimeoutMs`: the release is
   * then
   * retried in the background until the lease has ended, and no further action is needed.
   */
  release(): Promise<void>;
  /** Releases it. An earlier loss is not an error here, because the lock is then already free. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** The holder of a lock. */
export interface LockInspection {
  name: string;
  ownerId: string;
  /** `null` for a lock of an implementation other than Rollcall. */
  fencingToken: number | null;
  /** The remaining time without a renewal. Milliseconds; `null`: it never ends. */
  ttlMs: number | null;
  /** The number of waiters. */
  waiters: number;
}

/** A revoked lock. */
export interface RevokedLock {
  ownerId: string;
  /** `null` for a lock of an implementation other than Rollcall. */
  fencingToken: number | null;
}

/** A change of a lock. Each is emitted exactly once. */
export interface LockEvent {
  /**
   * `"acquired"`; `"released"` by its holder; `"expired"`: its TTL ended; `"revoked"`: by `revoke`,
   * or because another program deleted or overwrote its key.
   */
  type: 'acquired' | 'released' | 'expired' | 'revoked';
  name: string;
  ownerId: string;
  /** `null` for a lock of an implementation other than Rollcall. */
  fencingToken: number | null;
  /** The time of detection: milliseconds since 1970, on Redis's clock. */
  ts: number;
}

/** Receives lock events. Exceptions and rejections are logged and affect no other handler. */
export type LockHandler = (event: LockEvent) => unknown;

export interface LockSubscribeOptions {
  /** Only events of this lock. */
  name?: string;
}
