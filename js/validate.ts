// Checks of arguments that only JavaScript can make: types, well-formed strings, and JSON
// conversion. The core checks sizes and reserved names.

import { invalid, RollcallError } from './errors.js';
import type { OwnershipOptions } from './owned-connections.js';
import type { ClientOptions, Logger, StateCompression } from './types.js';

/** A value as text for messages: its type, or a short form of it. */
export function displayValue(value: unknown): string {
  if (value === null) {
    return 'null';
  }
  if (isArray(value)) {
    return 'an array';
  }
  switch (typeof value) {
    case 'undefined':
      return 'undefined';
    case 'number':
    case 'boolean':
      return `${value}`;
    case 'object':
      return 'an object';
    default:
      return `a ${typeof value}`;
  }
}

/** Like `Array.isArray`, which throws for a revoked Proxy. */
export function isArray(value: unknown): value is readonly unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

export function checkOptions(what: string, options: unknown): asserts options is object {
  if (typeof options !== 'object' || options === null || isArray(options)) {
    throw invalid(`${what} takes an object, got ${displayValue(options)}`);
  }
}

/**
 * The error for a failed read of `options`; it names the first unreadable field. The fields are
 * read one by one only after a failure, because reading them all at once is faster.
 */
export function unreadable(options: object, fields: readonly string[], error: unknown): Error {
  const field = fields.find((name) => {
    try {
      void (options as Record<string, unknown>)[name];
      return false;
    } catch {
      return true;
    }
  });
  return invalid(`${field ?? 'an option'} cannot be read: ${messageOf(error)}`, error);
}

/**
 * Fields of a caller's object, each read once; the error for a throwing getter names the field. Not
 * used for heartbeats, which are frequent.
 *
 * @throws `INVALID_ARGUMENT` for a field that `what` does not have.
 */
export function readFields<Field extends string>(
  what: string,
  from: object,
  fields: readonly Field[],
): { [Name in Field]: unknown } {
  const values = readKnown(from, fields);
  try {
    for (const name of Object.keys(from)) {
      if (!fields.includes(name as Field)) {
        refuseUnknown(what, from, name, fields);
      }
    }
  } catch (error) {
    throw error instanceof RollcallError ? error : unreadable(from, fields, error);
  }
  return values;
}

/** The same for callers of the legacy interface, which ignores unknown fields. */
export function readKnown<Field extends string>(
  from: object,
  fields: readonly Field[],
): { [Name in Field]: unknown } {
  const values = {} as { [Name in Field]: unknown };
  try {
    for (const field of fields) {
      values[field] = (from as { [Name in Field]: unknown })[field];
    }
  } catch (error) {
    throw unreadable(from, fields, error);
  }
  return values;
}

/** A copy of a caller's object. */
export function copyOf<T extends object>(field: string, from: T): T {
  try {
    return { ...from };
  } catch (error) {
    throw invalid(`${field} cannot be read: ${messageOf(error)}`, error);
  }
}

/**
 * Refuses unknown fields, which would be silently dropped. A field without a value counts as
 * absent.
 */
export function refuseUnknown(
  what: string,
  from: object,
  name: string,
  fields: readonly string[],
): void {
  if (Object.hasOwn(from, name) && (from as Record<string, unknown>)[name] !== undefined) {
    throw invalid(
      `${what} has no field ${JSON.stringify(name.slice(0, 64))}; there are ${fields.join(', ')}`,
    );
  }
}

/** Items of a caller's list, each read once. A hole is an invalid item. */
export function readItems(field: string, list: readonly unknown[]): unknown[] {
  try {
    return Array.from({ length: list.length }, (_, place) => list[place]);
  } catch (error) {
    throw invalid(`${field} cannot be read: ${messageOf(error)}`, error);
  }
}

export function checkId(field: string, id: unknown): asserts id is string {
  if (typeof id !== 'string') {
    throw invalid(`${field} must be a string, got ${displayValue(id)}`);
  }
  if (id.length === 0) {
    throw invalid(`${field} must not be empty`);
  }
  // A lone surrogate has no UTF-8 form: two such ids would have the same key.
  if (!id.isWellFormed()) {
    throw invalid(`${field} holds half a surrogate pair, which is no Unicode text`);
  }
}

export function checkText(field: string, text: unknown): asserts text is string {
  if (typeof text !== 'string') {
    throw invalid(`${field} must be a string, got ${displayValue(text)}`);
  }
}

/** An expected or given revision; a negative one counts as absent. */
export function checkRevision(field: string, revision: unknown): number | undefined {
  if (revision === undefined) {
    return undefined;
  }
  if (!Number.isSafeInteger(revision)) {
    throw invalid(`${field} must be a whole number, got ${displayValue(revision)}`);
  }
  return revision as number;
}

export function checkWhole(field: string, number: unknown): asserts number is number {
  if (!Number.isSafeInteger(number) || (number as number) < 0) {
    throw invalid(`${field} must be a whole number from 0 to 2^53-1, got ${displayValue(number)}`);
  }
}

/** The epoch for the core; -1 for none. */
export function checkEpoch(epoch: unknown): number {
  if (epoch === undefined) {
    return -1;
  }
  checkWhole('epoch', epoch);
  return epoch;
}

/** Text that is not empty. */
export function checkName(field: string, text: unknown): asserts text is string {
  if (typeof text !== 'string' || text.length === 0) {
    throw invalid(`${field} must be a string that is not empty, got ${displayValue(text)}`);
  }
}

export function checkFlag(field: string, flag: unknown, otherwise: boolean): boolean {
  if (flag === undefined) {
    return otherwise;
  }
  if (typeof flag !== 'boolean') {
    throw invalid(`${field} must be true or false, got ${displayValue(flag)}`);
  }
  return flag;
}

export function checkHandler(field: string, handler: unknown): asserts handler is () => void {
  if (typeof handler !== 'function') {
    throw invalid(`${field} must be a function, got ${displayValue(handler)}`);
  }
}

/** A whole number from 1. */
export function checkCount(field: string, count: unknown): asserts count is number {
  if (!Number.isSafeInteger(count) || (count as number) < 1) {
    throw invalid(`${field} must be a whole number from 1, got ${displayValue(count)}`);
  }
}

/** A time to wait: a whole number from 0, or Infinity. */
export function checkWait(field: string, wait: unknown): asserts wait is number {
  if (wait !== Number.POSITIVE_INFINITY && (!Number.isSafeInteger(wait) || (wait as number) < 0)) {
    throw invalid(`${field} must be a whole number from 0, or Infinity, got ${displayValue(wait)}`);
  }
}

export function checkSignal(
  field: string,
  signal: unknown,
): asserts signal is AbortSignal | undefined {
  if (signal !== undefined && !isSignal(signal)) {
    throw invalid(`${field} must be an AbortSignal, got ${displayValue(signal)}`);
  }
}

function isSignal(value: unknown): value is AbortSignal {
  try {
    return value instanceof AbortSignal;
  } catch {
    // A Proxy with a trap that throws.
    return false;
  }
}

export function checkObject(field: string, value: unknown): asserts value is object {
  if (typeof value !== 'object' || value === null || isArray(value)) {
    throw invalid(`${field} must be a JSON object, got ${displayValue(value)}`);
  }
}

/** The JSON text of a state. */
export function stateText(field: string, state: unknown): string {
  if (state === undefined) {
    return '{}';
  }
  checkObject(field, state);
  let text: string | undefined;
  try {
    text = JSON.stringify(state);
  } catch (error) {
    if (error instanceof RangeError) {
      // JSON.stringify overflows the stack at some thousand levels, far above any limit.
      throw invalid(
        `${field} is nested too deep to be written as JSON, more than limits.maxDepth can allow; ` +
          `flatten it, or store nested data as text`,
        error,
      );
    }
    // A cycle, a BigInt, or a getter or toJSON that throws.
    throw invalid(`${field} cannot be written as JSON: ${messageOf(error)}`, error);
  }
  if (text === undefined || text[0] !== '{') {
    throw invalid(`${field} must be a JSON object; its toJSON makes something else of it`);
  }
  return text;
}

/** A patch for the core: keys to set as a JSON object, keys to remove as a JSON array or "". */
export function patchTexts(field: string, patch: unknown): { set: string; remove: string } {
  const set = stateText(field, patch);
  let removed: string[] | undefined;
  try {
    for (const key of Object.keys(patch as object)) {
      if ((patch as Record<string, unknown>)[key] === undefined) {
        removed ??= [];
        removed.push(key);
      }
    }
  } catch (error) {
    throw invalid(`${field} cannot be read: ${messageOf(error)}`, error);
  }
  return { set, remove: removed === undefined ? '' : JSON.stringify(removed) };
}

/** A thrown value as one line of text. */
export function messageOf(error: unknown): string {
  try {
    return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
  } catch {
    return 'something was thrown that has no text';
  }
}

type Kind =
  | 'text'
  | 'texts'
  | 'text or texts'
  | 'number'
  | 'count'
  | 'flag'
  | 'lots of bytes'
  | readonly string[]
  | { readonly [field: string]: Kind };

const TLS: Kind = {
  ca: 'text',
  cert: 'text',
  key: 'text',
  servername: 'text',
  rejectUnauthorized: 'flag',
};

/** The kind of each option. `logger`, a JavaScript object, is checked separately. */
export const OPTION_KINDS: {
  readonly [Name in Exclude<keyof ClientOptions, 'logger'>]-?: Kind;
} = {
  url: 'text or texts',
  tls: TLS,
  sentinel: { username: 'text', password: 'text', tls: TLS },
  ttlMs: 'count',
  liveness: ['heartbeat', 'node'],
  nodeLeaseMs: 'count',
  nodeWatchdogMs: 'count',
  nodeBackstopMs: 'count',
  idleTimeoutMs: 'count',
  sweepIntervalMs: 'count',
  expiry: ['sweep', 'notifications', 'both'],
  fallbackSweepMs: 'count',
  shardCount: 'count',
  layout: ['v1', 'slotted'],
  pubsub: ['auto', 'sharded', 'plain'],
  keyPrefix: 'text',
  channelPrefix: 'text',
  batchWindowMs: 'count',
  locks: {
    urls: 'texts',
    driftFactor: 'number',
    retryCount: 'count',
    retryDelayMs: 'count',
    retryJitterMs: 'count',
  },
  stateStorage: ['inline', 'separate'],
  stateCompression: {
    thresholdBytes: 'count',
    codec: ['gzip', 'zstd'],
    dictionaries: 'lots of bytes',
  },
  metadataStorage: ['hash', 'json'],
  metadataTtlMs: 'count',
  channelTypesWithColon: 'texts',
  limits: {
    maxIdBytes: 'count',
    maxStateBytes: 'count',
    maxDepth: 'count',
    maxMetadataKeyBytes: 'count',
    maxMetadataValueBytes: 'count',
    maxMetadataRecordBytes: 'count',
    maxBatchSize: 'count',
    maxQueue: 'count',
    commandTimeoutMs: 'count',
    connectTimeoutMs: 'count',
    maxEventQueue: 'count',
    maxEventQueueBytes: 'count',
    maxPendingCalls: 'count',
    maxInFlightBytes: 'count',
  },
};

/**
 * The client's options as JSON text for the core, which checks ranges. Types are checked here, so
 * that the message names the option; it never repeats a value, which may be a secret.
 */
export function optionsText(options: object): string {
  try {
    checkOptionKinds(options);
    return JSON.stringify(withBase64(withOneUrl(withoutIdleTimeout(options))));
  } catch (error) {
    throw error instanceof RollcallError
      ? error
      : invalid(`the options cannot be read: ${messageOf(error)}`, error);
  }
}

/** Checks the types of some of the client's options, as `connect` does for all. */
export function checkOptionKinds(options: object): void {
  checkKinds('', options, OPTION_KINDS);
}

/**
 * The options for the connections that this node answers for, of options whose types are checked.
 * `undefined` if heartbeats keep connections alive.
 */
export function ownershipOptions({
  liveness,
  nodeWatchdogMs,
  idleTimeoutMs,
}: Pick<ClientOptions, 'liveness' | 'nodeWatchdogMs' | 'idleTimeoutMs'>):
  | OwnershipOptions
  | undefined {
  if (idleTimeoutMs !== undefined) {
    checkCount('idleTimeoutMs', idleTimeoutMs);
    if (liveness !== 'node') {
      throw invalid(
        'idleTimeoutMs needs liveness: "node"; set that too, or leave out idleTimeoutMs: without ' +
          '"node", a connection without heartbeats ends after ttlMs',
      );
    }
  }
  return liveness === 'node' ? { nodeWatchdogMs, idleTimeoutMs } : undefined;
}

/** The core does not have this option: JavaScript knows when a heartbeat has arrived. */
function withoutIdleTimeout({ idleTimeoutMs: _, ...options }: { idleTimeoutMs?: unknown }): object {
  return options;
}

/** For several URLs: all data are on the first, and locks are on a majority of all. */
function withOneUrl(options: { url?: unknown; locks?: object }): object {
  const { url, locks } = options;
  if (!Array.isArray(url)) {
    return options;
  }
  if (url.length === 0) {
    throw invalid('url must name at least one server, got an empty array');
  }
  return { ...options, url: url[0], locks: url.length === 1 ? locks : { urls: url, ...locks } };
}

/** Converts bytes to base64, because JSON has no bytes. */
function withBase64(options: { stateCompression?: StateCompression }): object {
  const { stateCompression } = options;
  if (stateCompression?.dictionaries === undefined) {
    return options;
  }
  const dictionaries = stateCompression.dictionaries.map((bytes) =>
    Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64'),
  );
  return { ...options, stateCompression: { ...stateCompression, dictionaries } };
}

function isText(value: unknown): boolean {
  return typeof value === 'string' && value.isWellFormed();
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(isText);
}

function checkKinds(
  path: string,
  options: object,
  kinds: { readonly [field: string]: Kind },
): void {
  for (const [name, value] of Object.entries(options)) {
    const field = path + name;
    const kind = Object.hasOwn(kinds, name) ? kinds[name] : undefined;
    if (kind === undefined) {
      throw invalid(`there is no option ${JSON.stringify(field)}`);
    }
    if (value === undefined) {
      continue;
    }
    if (kind === 'text') {
      if (!isText(value)) {
        throw invalid(`${field} must be a string, got ${displayValue(value)}`);
      }
    } else if (kind === 'texts') {
      if (!isTexts(value)) {
        throw invalid(`${field} must be an array of strings, got ${displayValue(value)}`);
      }
    } else if (kind === 'text or texts') {
      if (!isText(value) && !isTexts(value)) {
        throw invalid(
          `${field} must be a string or an array of strings, got ${displayValue(value)}`,
        );
      }
    } else if (kind === 'number') {
      if (typeof value !== 'number' || !Number.isFinite(value)) {
        throw invalid(`${field} must be a number, got ${displayValue(value)}`);
      }
    } else if (kind === 'count') {
      if (!Number.isSafeInteger(value) || value < 0) {
        throw invalid(`${field} must be a whole number from 0, got ${displayValue(value)}`);
      }
    } else if (kind === 'flag') {
      checkFlag(field, value, true);
    } else if (kind === 'lots of bytes') {
      if (!Array.isArray(value) || !value.every((one) => one instanceof Uint8Array)) {
        throw invalid(`${field} must be an array of Uint8Arrays, got ${displayValue(value)}`);
      }
    } else if (isTexts(kind)) {
      if (!isText(value) || !kind.includes(value)) {
        const names = kind.map((name) => JSON.stringify(name)).join(' or ');
        throw invalid(`${field} must be ${names}, got ${displayValue(value)}`);
      }
    } else {
      checkOptions(field, value);
      checkKinds(`${field}.`, value, kind);
    }
  }
}

export function checkLogger(logger: unknown): asserts logger is Logger {
  if (typeof logger !== 'object' || logger === null) {
    throw invalid(`logger must be an object, got ${displayValue(logger)}`);
  }
  const levels = ['debug', 'info', 'warn', 'error'] as const;
  const methods = readKnown(logger, levels);
  for (const level of levels) {
    const method = methods[level];
    if (method !== undefined && typeof method !== 'function') {
      throw invalid(`logger.${level} must be a function, got ${displayValue(method)}`);
    }
  }
}
