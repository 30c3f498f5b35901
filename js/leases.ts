// The leases that this client holds, as JavaScript sees them: their `lost` signals, and until when
// they are certainly ours. The core renews them and says when one is lost; but a process that was
// stopped and goes on may run its own code before it hears of that. So everything that a client does
// checks the clock first, which costs a comparison.

import type { NativeClient } from '../binding/binding.js';
import { RollcallError } from './errors.js';

/** One lock from the call that asks for it to its end. */
export interface Lease {
  readonly number: number;
  readonly name: string;
  readonly lost: AbortController;
  /** Until when it is ours as far as we know, by `performance.now()`. */
  ends: number;
}

const abortedOf = Object.getOwnPropertyDescriptor(AbortSignal.prototype, 'aborted')?.get as (
  this: AbortSignal,
) => boolean;

/** Whether the signal has fired, without a look at the clock. */
export function hasFired(signal: AbortSignal): boolean {
  return abortedOf.call(signal);
}

export class Leases {
  readonly #core: NativeClient;
  readonly #leases = new Map<number, Lease>();
  #numbers = 0;
  /** The first time at which one of them may be over. */
  #next = Number.POSITIVE_INFINITY;

  constructor(core: NativeClient) {
    this.#core = core;
  }

  /** A lease that is to be asked for. */
  open(name: string): Lease {
    const lost = new AbortController();
    // Whoever looks at it gets what is true now, not what was heard of last.
    Object.defineProperty(lost.signal, 'aborted', {
      configurable: true,
      get: () => {
        this.check();
        return hasFired(lost.signal);
      },
    });
    const lease: Lease = {
      number: ++this.#numbers,
      name,
      lost,
      ends: Number.POSITIVE_INFINITY,
    };
    this.#leases.set(lease.number, lease);
    return lease;
  }

  /** It is ours until `ends` of the core's clock. */
  granted(lease: Lease, ends: number): void {
    lease.ends = ends + this.#offset();
    this.#next = Math.min(this.#next, lease.ends);
    this.check();
  }

  /** Until when it is ours, as it stands now; by `performance.now()`. */
  endsOf(lease: Lease): number {
    if (this.#leases.has(lease.number)) {
      this.#look(lease, performance.now());
    }
    return lease.ends;
  }

  /** Has `lost` fired for every lease that is over. */
  check(): void {
    if (this.#next !== Number.POSITIVE_INFINITY && performance.now() >= this.#next) {
      this.#lookAtAll();
    }
  }

  /** It was lost. Nothing happens if that is known. */
  lost(number: number, error: RollcallError): void {
    const lease = this.#leases.get(number);
    if (lease !== undefined) {
      this.forget(lease);
      lease.ends = Math.min(lease.ends, performance.now());
      lease.lost.abort(error);
    }
  }

  /** It was released, or never granted. */
  forget(lease: Lease): void {
    this.#leases.delete(lease.number);
    if (this.#leases.size === 0) {
      this.#next = Number.POSITIVE_INFINITY;
    }
  }

  /** The client is closed, and gives back what it holds. */
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

  /** Asks the core, which may have renewed it. Once the core says that it is over, it is. */
  #look(lease: Lease, now: number): void {
    const ends = this.#core.lockEnds(lease.number);
    if (ends < 0 && lease.ends === Number.POSITIVE_INFINITY) {
      return;
    }
    const known = ends < 0 ? ends : ends + this.#offset();
    if (known <= now) {
      const message = `lock ${displayValue(lease.name)} was not renewed in time; acquire it again`;
      this.lost(lease.number, new RollcallError('LOCK_LOST', message));
    } else {
      lease.ends = known;
    }
  }

  /**
   * From the core's clock to `performance.now()`. Asked every time: on some systems the one goes on
   * while the machine sleeps, and the other does not.
   */
  #offset(): number {
    // Read in this order it may be too small, never too great: then leases end early, not late.
    return performance.now() - this.#core.lockClock();
  }
}

/** A lock's name for messages. */
export function displayValue(name: string): string {
  return JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}…` : name);
}
