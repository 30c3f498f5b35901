// Work that has to succeed some day: what a server starts with, while Redis may still be away.

import { RollcallError } from '../errors.js';
import { logError } from '../log.js';
import type { Logger } from '../types.js';

const PAUSE_MS = 1000;

/**
 * Tries until `work` has succeeded, or `stop` fires; a failure that is no matter of waiting ends it.
 * Failures are logged, the first of each kind. The pauses do not keep the process alive.
 */
export async function untilDone(
  what: string,
  work: () => Promise<void>,
  stop: AbortSignal,
  logger: Logger,
): Promise<void> {
  let logged: string | undefined;
  while (!stop.aborted) {
    try {
      return await work();
    } catch (error) {
      if (stop.aborted) {
        return;
      }
      const code = error instanceof RollcallError ? error.code : undefined;
      if (logged !== code || code === undefined) {
        logged = code;
        logError(logger, `${what} failed`, error);
      }
      if (code !== 'UNAVAILABLE' && code !== 'TIMEOUT') {
        throw error;
      }
    }
    await pause(stop);
  }
}

/** Ends early when `stop` fires. */
function pause(stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const ended = () => {
      clearTimeout(timer);
      stop.removeEventListener('abort', ended);
      resolve();
    };
    const timer = setTimeout(ended, PAUSE_MS);
    timer.unref();
    stop.addEventListener('abort', ended);
  });
}
