// Logging that cannot fail: a logger comes from the outside, and may throw or reject.

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
    // An asynchronous logger: its rejection would end the process.
    if (typeof result === 'object' && result !== null) {
      Promise.resolve(result).catch(() => {});
    }
  } catch {
    // A logger that throws has nobody left to tell.
  }
}
