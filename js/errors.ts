// The error classes. One table of codes, which a test compares with the core's; all errors of
// Rollcall are created here.

import type { ChannelMetadata } from './metadata-types.js';

/** The stable codes of Rollcall's errors. */
export const ERROR_CODES = [
  'INVALID_ARGUMENT',
  'CONNECTION_NOT_FOUND',
  'STALE_EPOCH',
  'METADATA_INVALID',
  'METADATA_CONFLICT',
  'METADATA_LOCK',
  'LOCK_UNAVAILABLE',
  'LOCK_LOST',
  'OVERLOADED',
  'RATE_LIMITED',
  'FORBIDDEN',
  'ROOM_FULL',
  'TIMEOUT',
  'UNAVAILABLE',
  'PERMISSION',
  'UNSUPPORTED',
  'CLOSED',
  'CORRUPT_DATA',
  'INTERNAL',
] as const;

/** A stable error code. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** All rejections of Rollcall are instances: an `Error` with a stable `code`. */
export class RollcallError extends Error {
  override name: string = 'RollcallError';
  /** The kind of failure, for programs. */
  readonly code: ErrorCode;
  /**
   * `"unknown"` if the request may have been applied although there was no answer (the connection
   * broke after it was sent); absent if it was certainly not applied.
   */
  declare readonly outcome?: 'unknown';
  /** With `METADATA_CONFLICT`: the current record, so that no second read is needed. */
  declare readonly current?: ChannelMetadata;

  constructor(
    code: ErrorCode,
    message: string,
    options?: { cause?: unknown; outcome?: 'unknown'; current?: ChannelMetadata },
  ) {
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    if (options?.outcome !== undefined) {
      this.outcome = options.outcome;
    }
    if (options?.current !== undefined) {
      this.current = options.current;
    }
  }
}

type ErrorOptions = NonNullable<ConstructorParameters<typeof RollcallError>[2]>;

/** A metadata change was refused: `METADATA_CONFLICT`, `METADATA_LOCK` or `METADATA_INVALID`. */
export class MetadataError extends RollcallError {
  override name: string = 'MetadataError';

  /** The arguments have the order of the legacy implementation. */
  constructor(message: string, code: ErrorCode = 'METADATA_INVALID', options?: ErrorOptions) {
    super(code, message, options);
  }
}

/** `METADATA_CONFLICT`: the record or an item has a different revision than expected. */
export class MetadataConflictError extends MetadataError {
  override name: string = 'MetadataConflictError';

  constructor(message: string, options?: ErrorOptions) {
    super(message, 'METADATA_CONFLICT', options);
  }
}

/** `METADATA_LOCK`: the lock is not held, or another user holds it. */
export class MetadataLockError extends MetadataError {
  override name: string = 'MetadataLockError';

  constructor(message: string, options?: ErrorOptions) {
    super(message, 'METADATA_LOCK', options);
  }
}

/** `METADATA_INVALID`: the record or an item does not exist, or no item was given. */
export class MetadataValidationError extends MetadataError {
  override name: string = 'MetadataValidationError';

  constructor(message: string, options?: ErrorOptions) {
    super(message, 'METADATA_INVALID', options);
  }
}

/** The codes whose errors have their own class. */
const CLASSES: {
  readonly [Code in ErrorCode]?: new (
    message: string,
    options?: ErrorOptions,
  ) => RollcallError;
} = {
  METADATA_CONFLICT: MetadataConflictError,
  METADATA_LOCK: MetadataLockError,
  METADATA_INVALID: MetadataValidationError,
};

/** An error from the core. */
export interface NativeErrorData {
  code: ErrorCode;
  message: string;
  unknown: boolean;
  cause: string | null;
  current: ChannelMetadata | null;
}

export function errorFrom(data: NativeErrorData): RollcallError {
  const options: ErrorOptions = {};
  if (data.cause !== null) {
    options.cause = new Error(data.cause);
  }
  if (data.unknown) {
    options.outcome = 'unknown';
  }
  if (data.current !== null) {
    options.current = data.current;
  }
  const Class = CLASSES[data.code];
  return Class === undefined
    ? new RollcallError(data.code, data.message, options)
    : new Class(data.message, options);
}

/** Whether it is an error of Rollcall with one of these codes. */
export function hasCode(error: unknown, ...codes: ErrorCode[]): error is RollcallError {
  return error instanceof RollcallError && codes.includes(error.code);
}

export function invalid(message: string, cause?: unknown): RollcallError {
  return new RollcallError('INVALID_ARGUMENT', message, { cause });
}

/** The error for a call during which the core failed. The call may have been applied. */
export function internalError(cause: unknown): RollcallError {
  const message = 'Rollcall failed inside; please report this';
  return new RollcallError('INTERNAL', message, { cause, outcome: 'unknown' });
}
