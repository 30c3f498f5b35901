// Waiting in tests: for a condition, or for a Promise that something else settles. Tests never
// sleep for a fixed time in the hope that it was enough.
import { setTimeout as delay } from 'node:timers/promises';

export interface EventuallyOptions {
  /** How long to try, in milliseconds. Default 5000. */
  timeoutMs?: number;
  /** The pause between two tries, in milliseconds. Default 10. */
  intervalMs?: number;
}

/**
 * Calls `fn` until it neither throws nor gives `false`, and resolves to what it gave. When time is
 * up, rejects with the last try's error: write assertions into `fn`.
 */
export async function eventually<T>(
  fn: () => T | Promise<T>,
  { timeoutMs = 5000, intervalMs = 10 }: EventuallyOptions = {},
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    try {
      const result = await fn();
      if (result !== false) return result;
      if (performance.now() >= deadline) throw new Error(`still false after ${timeoutMs} ms`);
    } catch (error) {
      if (performance.now() >= deadline) throw error;
    }
    await delay(intervalMs);
  }
}

export interface Deferred<T> {
  promise: Promise<T>;
  resolve: (value: T | PromiseLike<T>) => void;
  reject: (reason: unknown) => void;
}

/** A Promise with its two ends (`Promise.withResolvers`, which Node 20 does not have). */
export function deferred<T = void>(): Deferred<T> {
  let resolve!: Deferred<T>['resolve'];
  let reject!: Deferred<T>['reject'];
  const promise = new Promise<T>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

/** Rejects unless `promise` settles in time; `what` is named in the message. */
export async function within<T>(promise: Promise<T>, timeoutMs: number, what: string): Promise<T> {
  const timer = new AbortController();
  const timeout = delay(timeoutMs, undefined, { signal: timer.signal }).then(
    () => {
      throw new Error(`${what}: not within ${timeoutMs} ms`);
    },
    // Aborted: `promise` has won, nobody looks at this one any more.
    () => new Promise<never>(() => {}),
  );
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    timer.abort();
  }
}

/** See {@link startClock}. */
export interface Clock extends Disposable {
  readonly ms: number;
}

const TICK_MS = 5;

/**
 * A clock that stands still while this process gets no processor: it counts the turns of a timer.
 * For upper bounds of what a timeout promises, which a busy machine must not break.
 */
export function startClock(): Clock {
  let ticks = 0;
  const timer = setInterval(() => ticks++, TICK_MS);
  timer.unref();
  return {
    get ms() {
      return ticks * TICK_MS;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}
