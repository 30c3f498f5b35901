// The acknowledgement of a failed request: errors of the client's request with their message,
// errors of the server without details.

import { type ErrorCode, RollcallError } from '../errors.js';
import type { ChannelMetadata } from '../metadata-types.js';

export type Answer = { ok: true } & Record<string, unknown>;

export interface Refusal {
  ok: false;
  error: string;
  code?: ErrorCode;
  current?: ChannelMetadata;
}

/** Codes whose messages are for the client; other messages describe internals of the server. */
const CLIENTS_OWN: ReadonlySet<string> = new Set<ErrorCode>([
  'INVALID_ARGUMENT',
  'CONNECTION_NOT_FOUND',
  'STALE_EPOCH',
  'METADATA_INVALID',
  'METADATA_CONFLICT',
  'METADATA_LOCK',
  'OVERLOADED',
  'RATE_LIMITED',
  'FORBIDDEN',
  'ROOM_FULL',
]);

/** @param log is called for failures of the server. */
export function refusalOf(error: unknown, log: () => void): Refusal {
  if (!(error instanceof RollcallError)) {
    log();
    return { ok: false, error: 'Presence failed on the server' };
  }
  const { code, message, current } = error;
  if (CLIENTS_OWN.has(code)) {
    const refusal: Refusal = { ok: false, error: message, code };
    return current === undefined ? refusal : { ...refusal, current };
  }
  if (code === 'CLOSED') {
    // A server that shuts down is not a failure.
    return { ok: false, error: 'Presence is closed on this server; connect again', code };
  }
  log();
  return { ok: false, error: 'Presence is not available; try again', code };
}
