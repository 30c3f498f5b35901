// The public types of locks. No code.

/** How a lock is asked for. */
export interface AcquireOptions {
  /** Who it is for: what `prs:lock:<name>` holds, as metadata guarded by the lock checks it. */
  ownerId: string;
  /**
   * How long the lock is held without a renewal. Milliseconds, at least 10, default 10 000. It is how
   * long others wait when this process dies.
   */
  ttlMs?: number;
  /**
   * How long the call may take in all: the time in the queue, and that for connecting, subscribing and
   * the answers of Redis. Milliseconds, default 0: now or not at all, within `limits.commandTimeoutMs`.
   * `Infinity`: until it is had, or `signal` ends it.
   */
  waitMs?: number;
  /**
   * Whether the lock is renewed at every third of its TTL until it is released, also while the
   * JavaScript thread is busy. Default `true`.
   */
  autoRenew?: boolean;
  /**
   * Ends the waiting: the call rejects with `LOCK_UNAVAILABLE`, whose `cause` is the signal's reason, and
   * its place in the queue is free.
   */
  signal?: AbortSignal;
}

/** A lock that is held. `await using` releases it. */
export interface Lock {
  readonly name: string;
  readonly ownerId: string;
  /**
   * Greater than that of every grant of this name before. Whoever writes under the lock passes it on,
   * so that a write that comes late can be refused.
   */
  readonly fencingToken: number;
  /**
   * Until when the lock is certainly held, as it stands now: milliseconds since 1970 on this process's
   * clock. Moves on with every renewal.
   */
  readonly expiresAt: number;
  /**
   * Fires when the lock is lost: not renewed in time, revoked, or taken by others. It does so before
   * the lock can be anybody else's; its `reason` is a `LOCK_LOST` error. Looking at `aborted` checks
   * the clock, so that it is right even where the process was stopped a moment ago. It does not fire
   * for a release.
   */
  readonly lost: AbortSignal;
  /**
   * Gives the lock another TTL from now.
   *
   * @param ttlMs - the TTL, for this time and for renewals after it. Default: the one it has.
   * @throws `LOCK_LOST` if it is not held any more; then `lost` has fired.
   */
  extend(ttlMs?: number): Promise<void>;
  /**
   * Gives the lock up; the first in its queue gets it at once. The lock is not renewed from then on.
   * Calling it again gives the same Promise.
   *
   * @throws `LOCK_LOST` if it was not held any more. `UNAVAILABLE` or `TIMEOUT` with
   * `outcome: "unknown"` if Redis did not answer within `limits.commandTimeoutMs`: then the release is
   * tried again in the background until the lease has ended, and there is nothing left to do.
   */
  release(): Promise<void>;
  /** Releases it. That it was lost before is no error here: then it is gone, as wanted. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Who holds a lock. */
export interface LockInspection {
  name: string;
  ownerId: string;
  /** `null` for a lock that something other than Rollcall has written. */
  fencingToken: number | null;
  /** How long it is still held unless it is renewed. Milliseconds; `null`: it never ends. */
  ttlMs: number | null;
  /** How many wait for it. */
  waiters: number;
}

/** What was revoked. */
export interface RevokedLock {
  ownerId: string;
  /** `null` for a lock that something other than Rollcall has written. */
  fencingToken: number | null;
}

/** Something happened to a lock. Each comes exactly once. */
export interface LockEvent {
  /**
   * `"acquired"`; `"released"` by its holder; `"expired"`: its time ran out; `"revoked"`: it was taken
   * away, by `revoke` or by something that deleted or overwrote its key.
   */
  type: 'acquired' | 'released' | 'expired' | 'revoked';
  name: string;
  ownerId: string;
  /** `null` for a lock that something other than Rollcall has written. */
  fencingToken: number | null;
  /** When it was noticed: milliseconds since 1970, on Redis's clock. */
  ts: number;
}

/** Gets lock events. What it throws or rejects with is logged and disturbs nobody else. */
export type LockHandler = (event: LockEvent) => unknown;

export interface LockSubscribeOptions {
  /** Only events of this lock. */
  name?: string;
}
