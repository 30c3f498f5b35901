// `client.locks`: checks arguments that only JavaScript can check, and creates the lock objects.

import { type Dispatcher, FEEDS } from './dispatcher.js';
import { hasCode, RollcallError } from './errors.js';
import { displayValue, type Lease, type Leases } from './leases.js';
import type {
  AcquireOptions,
  Lock,
  LockHandler,
  LockInspection,
  LockSubscribeOptions,
  RevokedLock,
} from './lock-types.js';
import type { Session } from './session.js';
import type { Unsubscribe } from './types.js';
import {
  checkCount,
  checkFlag,
  checkHandler,
  checkId,
  checkOptions,
  checkSignal,
  checkWait,
  readFields,
} from './validate.js';

const DEFAULT_TTL_MS = 10_000;
const ACQUIRE_OPTIONS = ['ownerId', 'ttlMs', 'waitMs', 'autoRenew', 'signal'] as const;

/** Named locks: leases with fencing tokens, granted in order of arrival. `client.locks` is one. */
export class Locks {
  readonly #session: Session;
  readonly #dispatcher: Pick<Dispatcher<never>, 'addLock'>;

  /** @internal */
  constructor(session: Session, dispatcher: Pick<Dispatcher<never>, 'addLock'>) {
    this.#session = session;
    this.#dispatcher = dispatcher;
  }

  /**
   * Acquires the lock. Waits for it up to `waitMs`, in order of arrival among all nodes.
   *
   * @throws `LOCK_UNAVAILABLE` if it cannot be acquired in time (the message contains the owner and
   * the remaining time), and when `signal` fires, with the signal's reason as its `cause`;
   * `LOCK_LOST` if its lease ended before the call could resolve; `INVALID_ARGUMENT`,
   * `UNAVAILABLE`, `TIMEOUT`, `PERMISSION`, `CORRUPT_DATA`, `CLOSED`
   */
  async acquire(name: string, options: AcquireOptions): Promise<Lock> {
    checkId('name', name);
    checkOptions('locks.acquire', options);
    const {
      ownerId,
      ttlMs = DEFAULT_TTL_MS,
      waitMs = 0,
      autoRenew,
      signal,
    } = readFields('locks.acquire', options, ACQUIRE_OPTIONS);
    checkId('ownerId', ownerId);
    checkCount('ttlMs', ttlMs);
    checkWait('waitMs', waitMs);
    const renews = checkFlag('autoRenew', autoRenew, true);
    checkSignal('signal', signal);
    if (signal?.aborted) {
      throw aborted(name, signal);
    }
    this.#session.checkOpen();
    const { leases } = this.#session.bridge;
    const lease = leases.open(name);
    try {
      const [fencingToken, ends] = (await this.#abortable(
        lease,
        this.#session.call('lockAcquire', lease.number, name, ownerId, ttlMs, waitMs, renews),
        signal,
      )) as [number, number];
      leases.granted(lease, ends);
      if (lease.lossReason !== undefined) {
        throw lease.lossReason;
      }
      return new HeldLock(this.#session, lease, ownerId, fencingToken);
    } catch (error) {
      leases.forget(lease);
      // For any reason: no caller here has the lock, but the core may have granted it, or may still
      // do so.
      this.#session.bridge.abandonLock(lease.number);
      throw error;
    }
  }

  /** The holder of a lock, and the number of waiters; `null` if it is not held. */
  async inspect(name: string): Promise<LockInspection | null> {
    checkId('name', name);
    return (await this.#session.call('lockInspect', name)) as LockInspection | null;
  }

  /**
   * Revokes a lock from its holder, for operators. The first waiter gets it. The holder is notified at
   * once if its process can be reached; otherwise only the fencing token prevents its writes.
   *
   * @returns the revoked lock, or `null` if it was not held.
   */
  async revoke(name: string): Promise<RevokedLock | null> {
    checkId('name', name);
    return (await this.#session.call('lockRevoke', name)) as RevokedLock | null;
  }

  /**
   * Calls `handler` for each event of all locks, or of one.
   *
   * @returns a function that ends the subscription. An open subscription keeps the process alive.
   * @throws `UNSUPPORTED` for locks on several servers
   */
  async subscribe(handler: LockHandler, options: LockSubscribeOptions = {}): Promise<Unsubscribe> {
    checkHandler('handler', handler);
    checkOptions('locks.subscribe', options);
    const { name } = readFields('locks.subscribe', options, ['name']);
    if (name !== undefined) {
      checkId('name', name);
    }
    const remove = this.#dispatcher.addLock(name, handler);
    const feed = name === undefined ? FEEDS.allLocks : FEEDS.lock;
    return this.#session.subscribe(feed, name ?? '', remove);
  }

  /** The call's result, or a rejection when the signal fires first. */
  #abortable(
    { name }: Lease,
    call: Promise<unknown>,
    signal: AbortSignal | undefined,
  ): Promise<unknown> {
    if (signal === undefined) {
      return call;
    }
    return new Promise((resolve, reject) => {
      const onAbort = () => reject(aborted(name, signal));
      signal.addEventListener('abort', onAbort, { once: true });
      call.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
    });
  }
}

/** The error of a call that its signal ended. A signal's reason can be any value. */
function aborted(name: string, signal: AbortSignal): RollcallError {
  return new RollcallError(
    'LOCK_UNAVAILABLE',
    `lock ${displayValue(name)} is not waited for any more: the caller's signal was aborted`,
    { cause: signal.reason },
  );
}

class HeldLock implements Lock {
  readonly #session: Session;
  readonly #lease: Lease;
  readonly ownerId: string;
  readonly fencingToken: number;
  #released: Promise<void> | undefined;

  constructor(session: Session, lease: Lease, ownerId: string, fencingToken: number) {
    this.#session = session;
    this.#lease = lease;
    this.ownerId = ownerId;
    this.fencingToken = fencingToken;
  }

  get name(): string {
    return this.#lease.name;
  }

  get expiresAt(): number {
    return Math.floor(Date.now() + this.#leases.endsOf(this.#lease) - performance.now());
  }

  get lost(): AbortSignal {
    this.#leases.check();
    return this.#lease.lost;
  }

  async extend(ttlMs?: number): Promise<void> {
    if (ttlMs !== undefined) {
      checkCount('ttlMs', ttlMs);
    }
    if (this.#released !== undefined && this.#lease.lossReason === undefined) {
      const name = JSON.stringify(this.name);
      throw new RollcallError('LOCK_LOST', `lock ${name} has been released; acquire it again`);
    }
    await this.#call(async () => {
      const ends = await this.#session.call('lockExtend', this.#lease.number, ttlMs ?? 0);
      this.#leases.granted(this.#lease, ends as number);
    });
  }

  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.release();
    } catch (error) {
      if (!hasCode(error, 'LOCK_LOST')) {
        throw error;
      }
    }
  }

  get #leases(): Leases {
    return this.#session.bridge.leases;
  }

  async #release(): Promise<void> {
    try {
      await this.#call(() => this.#session.call('lockRelease', this.#lease.number));
    } finally {
      // Also after a failure: the core completes the release.
      this.#leases.forget(this.#lease);
    }
  }

  /** Rejects with the reason of `lost` if it has fired; fires it if the core reports the loss. */
  async #call(call: () => Promise<unknown>): Promise<void> {
    this.#leases.check();
    if (this.#lease.lossReason !== undefined) {
      throw this.#lease.lossReason;
    }
    try {
      await call();
    } catch (error) {
      if (hasCode(error, 'LOCK_LOST')) {
        this.#leases.lost(this.#lease.number, error);
      }
      throw error;
    }
  }
}
