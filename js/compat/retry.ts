// Retries of work that must eventually succeed: the start of a server while Redis may be down.

import { RollcallError } from '../errors.js';
import { logError } from '../log.js';
import type { Logger } from '../types.js';

const PAUSE_MS = 1000;

/**
 * Retries until `work` succeeds or `stop` fires; an error that a retry cannot fix ends it. Logs the
 * first failure of each kind. The pauses do not keep the process alive.
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
