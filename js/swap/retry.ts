// Work that has to succeed some day: what a server starts with, while Redis may still be away.

import { RollcallError } from '../errors.js';
import type { Logger } from '../types.js';

const PAUSE_MS = 1000;

/**
 * Tries until `work` has succeeded, or `stopped()`; a failure that is no matter of waiting ends it.
 * Failures are logged, the first of each kind. The pauses do not keep the process alive.
 */
export async function untilDone(
  what: string,
  work: () => Promise<void>,
  stopped: () => boolean,
  logger: Logger,
): Promise<void> {
  let logged: string | undefined;
  while (!stopped()) {
    try {
      return await work();
    } catch (error) {
      if (stopped()) {
        return;
      }
      const code = error instanceof RollcallError ? error.code : undefined;
      if (logged !== code || code === undefined) {
        logged = code;
        logger.error?.(`${what} failed`, error);
      }
      if (code !== 'UNAVAILABLE' && code !== 'TIMEOUT') {
        throw error;
      }
    }
    await new Promise<void>((resolve) => setTimeout(resolve, PAUSE_MS).unref());
  }
}
