// Quotas of one socket. A socket that exceeds them is refused; others are not affected.

import { invalid, RollcallError } from '../errors.js';
import { checkOptions, displayValue, readFields } from '../validate.js';

/** Limits for each socket; `Infinity` disables a limit. */
export interface SocketQuotas {
  /** Presence rooms at a time. In this protocol a socket is in one room at most. Default 1. */
  roomsPerSocket?: number | undefined;
  /** Joins and leaves. Default 10. */
  joinsPerSecond?: number | undefined;
  /** Heartbeats, with or without a patch. Default 100. */
  patchesPerSecond?: number | undefined;
  /** Requests for channel metadata, including reads. Default 20. */
  metadataPerSecond?: number | undefined;
  /** Size of all payloads, in bytes. A longer payload is never accepted. Default 2 MiB. */
  bytesPerSecond?: number | undefined;
  /** Unanswered requests of all kinds. Default 128. */
  queuedPerSocket?: number | undefined;
}

export type Quotas = Readonly<Record<keyof SocketQuotas, number>>;

const DEFAULTS: Quotas = {
  roomsPerSocket: 1,
  joinsPerSecond: 10,
  patchesPerSecond: 100,
  metadataPerSecond: 20,
  bytesPerSecond: 2 * 1024 * 1024,
  queuedPerSocket: 128,
};

const NAMES = Object.keys(DEFAULTS) as (keyof Quotas)[];

export function checkedQuotas(given: unknown): Quotas {
  if (given === undefined) {
    return DEFAULTS;
  }
  checkOptions('quotas', given);
  const fields = readFields('quotas', given, NAMES);
  const quotas: Record<keyof SocketQuotas, number> = { ...DEFAULTS };
  for (const name of NAMES) {
    const value = fields[name];
    if (value === undefined) {
      continue;
    }
    if (typeof value !== 'number' || !(value >= 1)) {
      throw invalid(
        `quotas.${name} must be a number from 1, or Infinity, got ${displayValue(value)}`,
      );
    }
    quotas[name] = value;
  }
  return quotas;
}

/** The rate quotas that a request counts for. */
export type Kind = 'joinsPerSecond' | 'patchesPerSecond' | 'metadataPerSecond';

const SENT: Record<Kind, string> = {
  joinsPerSecond: 'joins and leaves',
  patchesPerSecond: 'heartbeats',
  metadataPerSecond: 'requests for metadata',
};

/** The remaining quotas of one socket. */
export class SocketBudget {
  readonly #quotas: Quotas;
  readonly #rates: Record<Kind, Bucket>;
  readonly #bytes: Bucket;
  #unanswered = 0;

  constructor(quotas: Quotas) {
    this.#quotas = quotas;
    this.#rates = {
      joinsPerSecond: new Bucket(quotas.joinsPerSecond),
      patchesPerSecond: new Bucket(quotas.patchesPerSecond),
      metadataPerSecond: new Bucket(quotas.metadataPerSecond),
    };
    this.#bytes = new Bucket(quotas.bytesPerSecond);
  }

  /** @throws `RATE_LIMITED`; otherwise the request counts until {@link answered}. */
  admit(kind: Kind, payload: unknown): void {
    const { queuedPerSocket, bytesPerSecond } = this.#quotas;
    if (this.#unanswered >= queuedPerSocket) {
      throw limited(
        `quotas.queuedPerSocket is ${queuedPerSocket}: so many requests of this socket have not been ` +
          'answered yet; wait for answers before sending more',
      );
    }
    const now = performance.now();
    const wait = this.#rates[kind].take(1, now);
    if (wait > 0) {
      throw limited(
        `quotas.${kind} is ${this.#quotas[kind]}: this socket has sent more ${SENT[kind]}; send this ` +
          `again in ${wait} ms`,
      );
    }
    const bytes = bytesPerSecond === Number.POSITIVE_INFINITY ? 0 : sizeOf(payload, bytesPerSecond);
    if (bytes > bytesPerSecond) {
      throw limited(
        `quotas.bytesPerSecond is ${bytesPerSecond}: this payload alone is longer; send less at once`,
      );
    }
    const pause = this.#bytes.take(bytes, now);
    if (pause > 0) {
      throw limited(
        `quotas.bytesPerSecond is ${bytesPerSecond}: this socket has sent more; send this again in ` +
          `${pause} ms`,
      );
    }
    this.#unanswered++;
  }

  answered(): void {
    this.#unanswered--;
  }
}

function limited(message: string): RollcallError {
  return new RollcallError('RATE_LIMITED', message);
}

/** A token bucket with a capacity of one second. */
class Bucket {
  readonly #perSecond: number;
  #level: number;
  #at = 0;

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#level = perSecond;
  }

  /** Takes the amount and returns 0, or returns the milliseconds until it is available. */
  take(amount: number, now: number): number {
    if (this.#perSecond === Number.POSITIVE_INFINITY) {
      return 0;
    }
    const grown = this.#level + ((now - this.#at) / 1000) * this.#perSecond;
    this.#level = Math.min(this.#perSecond, grown);
    this.#at = now;
    if (amount <= this.#level) {
      this.#level -= amount;
      return 0;
    }
    return Math.ceil(((amount - this.#level) / this.#perSecond) * 1000);
  }
}

/**
 * The approximate size of a payload as JSON, in bytes. Stops above `most`. Not recursive, because a
 * payload may be nested deeper than the stack allows.
 */
export function sizeOf(payload: unknown, most: number): number {
  const left: unknown[] = [payload];
  let bytes = 0;
  while (left.length > 0 && bytes <= most) {
    const value = left.pop();
    if (typeof value === 'string') {
      bytes += 2 + Buffer.byteLength(value);
    } else if (typeof value !== 'object' || value === null) {
      bytes += 8;
    } else if (ArrayBuffer.isView(value)) {
      bytes += value.byteLength;
    } else if (Array.isArray(value)) {
      bytes += 2 + value.length;
      for (let place = 0; place < value.length && bytes <= most; place++) {
        left.push(value[place]);
      }
    } else {
      bytes += 2;
      for (const key of Object.keys(value)) {
        bytes += 4 + Buffer.byteLength(key);
        left.push((value as Record<string, unknown>)[key]);
      }
    }
  }
  return bytes;
}
