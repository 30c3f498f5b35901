// Helpers for reading the options of Redis libraries, used by settings.ts and tls.ts.

import { RollcallError } from '../errors.js';
import { checkName } from '../validate.js';

export type Fields = Record<string, unknown>;

export function textOrNone(field: string, value: unknown): string | undefined {
  if (value === undefined || value === null || value === '') {
    return undefined;
  }
  checkName(`redis.options.${field}`, value);
  return value;
}

/** The fields that have a value. */
export function given<T extends object>(fields: { [Key in keyof T]?: T[Key] | undefined }): T {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as T;
}

export function unsupported(message: string): RollcallError {
  return new RollcallError('UNSUPPORTED', message);
}
