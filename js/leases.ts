// The leases of this client in JavaScript: their `lost` signals, and the time until which they are
// certainly held. The core renews them and reports losses. A process that was stopped may run its
// own code before it receives the report, so every call of a client checks the clock first, which
// costs one comparison.

import type { NativeClient } from '../binding/binding.js';
import { coreClockOffset } from './core-clock.js';
import { RollcallError } from './errors.js';

/** One lock from its acquire call to its end. */
export class Lease {
  readonly number: number;
  readonly name: string;
  /** The time until which it is known to be held, by `performance.now()`. */
  ends = Number.POSITIVE_INFINITY;
  /** Why it was lost. A lease that was released is not lost. */
  lossReason: RollcallError | undefined;
  readonly #leases: Leases;
  /** Created when it is read first: a controller costs as much as the rest of a lock. */
  #lost: AbortController | undefined;

  constructor(leases: Leases, number: number, name: string) {
    this.#leases = leases;
    this.number = number;
    this.name = name;
  }

  get lost(): AbortSignal {
    if (this.#lost === undefined) {
      const lost = new AbortController();
      const { signal } = lost;
      // Reading it returns the current state, not the last reported one.
      Object.defineProperty(signal, 'aborted', {
        configurable: true,
        get: () => {
          this.#leases.check();
          return abortedOf.call(signal);
        },
      });
      this.#lost = lost;
      if (this.lossReason !== undefined) {
        lost.abort(this.lossReason);
      }
    }
    return this.#lost.signal;
  }

  /** Fires `lost`. */
  lose(reason: RollcallError): void {
    this.lossReason = reason;
    this.#lost?.abort(reason);
  }
}

const abortedOf = Object.getOwnPropertyDescriptor(AbortSignal.prototype, 'aborted')?.get as (
  this: AbortSignal,
) => boolean;

export class Leases {
  readonly #core: NativeClient;
  readonly #leases = new Map<number, Lease>();
  #numbers = 0;
  /** The earliest time at which one of the leases may end. */
  #next = Number.POSITIVE_INFINITY;

  constructor(core: NativeClient) {
    this.#core = core;
  }

  /** Registers a lease before its lock is requested. */
  open(name: string): Lease {
    const lease = new Lease(this, ++this.#numbers, name);
    this.#leases.set(lease.number, lease);
    return lease;
  }

  /** It is held until `ends` of the core's clock. */
  granted(lease: Lease, ends: number): void {
    lease.ends = ends + coreClockOffset(this.#core);
    this.#next = Math.min(this.#next, lease.ends);
    this.check();
  }

  /** The time until which it is held, by `performance.now()`. */
  endsOf(lease: Lease): number {
    if (this.#leases.has(lease.number)) {
      this.#look(lease, performance.now());
    }
    return lease.ends;
  }

  /** Fires `lost` for every lease that has ended. */
  check(): void {
    if (this.#next !== Number.POSITIVE_INFINITY && performance.now() >= this.#next) {
      this.#lookAtAll();
    }
  }

  /** It was lost. Has no effect the second time. */
  lost(number: number, error: RollcallError): void {
    const lease = this.#leases.get(number);
    if (lease !== undefined) {
      this.forget(lease);
      lease.ends = Math.min(lease.ends, performance.now());
      lease.lose(error);
    }
  }

  /** It was released, or never granted. */
  forget(lease: Lease): void {
    this.#leases.delete(lease.number);
    if (this.#leases.size === 0) {
      this.#next = Number.POSITIVE_INFINITY;
    }
  }

  /** The client is closed, and releases its locks. */
  end(): void {
    for (const { number, name } of [...this.#leases.values()]) {
      this.lost(
        number,
        new RollcallError('LOCK_LOST', `lock ${displayValue(name)}: its client was closed`),
      );
    }
  }

  #lookAtAll(): void {
    const now = performance.now();
    for (const lease of [...this.#leases.values()]) {
      if (lease.ends <= now) {
        this.#look(lease, now);
      }
    }
    this.#next = Number.POSITIVE_INFINITY;
    for (const { ends } of this.#leases.values()) {
      this.#next = Math.min(this.#next, ends);
    }
  }

  /** Asks the core, which may have renewed it. If the core reports its end, it has ended. */
  #look(lease: Lease, now: number): void {
    const ends = this.#core.lockEnds(lease.number);
    if (ends < 0 && lease.ends === Number.POSITIVE_INFINITY) {
      return;
    }
    const known = ends < 0 ? ends : ends + coreClockOffset(this.#core);
    if (known <= now) {
      const message = `lock ${displayValue(lease.name)} was not renewed in time; acquire it again`;
      this.lost(lease.number, new RollcallError('LOCK_LOST', message));
    } else {
      lease.ends = known;
    }
  }
}

/** A lock's name for messages. */
export function displayValue(name: string): string {
  return JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name);
}
