// Waiting in tests: for a condition, or for a Promise that something else settles. Tests never
// sleep for a fixed time. Time limits use a clock that a busy machine slows down together with
// everything else.
import { setTimeout as delay } from 'node:timers/promises';

const TICK_MS = 10;
const began = performance.now();
let ticks = 0;
setInterval(() => ticks++, TICK_MS).unref();

export interface Clock {
  readonly ms: number;
}

/**
 * A clock of this process: it counts turns of a timer, so it stops while the process gets no
 * processor. For upper bounds that must hold on a busy machine.
 */
export function startClock(): Clock {
  const start = ticks;
  return {
    get ms() {
      return (ticks - start) * TICK_MS;
    },
  };
}

/**
 * How much slower this machine is than an idle one, as far as this process has observed: 1 or more.
 * For upper bounds on the work of other processes, by their own clocks.
 */
export function slowness(): number {
  return Math.max(1, (performance.now() - began) / ((ticks + 1) * TICK_MS));
}

export interface EventuallyOptions {
  /** How long to try, in milliseconds of {@link startClock}. Default 5000. */
  timeoutMs?: number;
  /** The pause between two tries, in milliseconds. Default 10. */
  intervalMs?: number;
}

/**
 * Calls `fn` until it neither throws nor returns `false`, and resolves to its result. At the time
 * limit it rejects with the last error: put assertions into `fn`.
 */
export async function eventually<T>(
  fn: () => T | Promise<T>,
  { timeoutMs = 5000, intervalMs = 10 }: EventuallyOptions = {},
): Promise<T> {
  const clock = startClock();
  for (;;) {
    try {
      const result = await fn();
      if (result !== false) return result;
      if (clock.ms >= timeoutMs) throw new Error(`still false after ${timeoutMs} ms`);
    } catch (error) {
      if (clock.ms >= timeoutMs) throw error;
    }
    await delay(intervalMs);
  }
}

export interface Deferred<T> {
  promise: Promise<T>;
  resolve: (value: T | PromiseLike<T>) => void;
  reject: (reason: unknown) => void;
}

/**
 * A Promise with its resolve and reject functions (`Promise.withResolvers`, which Node 20 does not
 * have).
 */
export function deferred<T = void>(): Deferred<T> {
  let resolve!: Deferred<T>['resolve'];
  let reject!: Deferred<T>['reject'];
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/**
 * Rejects unless `promise` settles in time (of {@link startClock}); the message contains `what`.
 */
export async function within<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  const clock = startClock();
  const late = deferred<never>();
  const timer = setInterval(() => {
    if (clock.ms >= timeoutMs) late.reject(new Error(`${what}: not within ${timeoutMs} ms`));
  }, TICK_MS);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearInterval(timer);
  }
}
