// Logging that cannot fail: loggers are supplied by users, and may throw or reject.

import type { Logger } from './types.js';

type Level = keyof Logger;

export function logError(logger: Logger, message: string, error: unknown): void {
  log(logger, 'error', message, error);
}

export function logWarning(logger: Logger, message: string): void {
  log(logger, 'warn', message);
}

export function log(logger: Logger, level: Level, ...args: unknown[]): void {
  try {
    const result: unknown = logger[level]?.(...args);
    // The rejection of an asynchronous logger would end the process.
    if (typeof result === 'object' && result !== null) {
      Promise.resolve(result).catch(() => {});
    }
  } catch {
    // An exception of the logger cannot be reported anywhere.
  }
}
