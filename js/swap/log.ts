// Logging that cannot fail: a logger comes from the outside, and may throw or reject.

import type { Logger } from '../types.js';

export function logError(logger: Logger, message: string, error: unknown): void {
  guarded(() => logger.error?.(message, error));
}

export function logWarning(logger: Logger, message: string): void {
  guarded(() => logger.warn?.(message));
}

function guarded(log: () => unknown): void {
  try {
    const result = log();
    // An asynchronous logger: its rejection would end the process.
    if (typeof result === 'object' && result !== null) {
      Promise.resolve(result).catch(() => {});
    }
  } catch {
    // A logger that throws has nobody left to tell.
  }
}
