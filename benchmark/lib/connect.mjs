// The clients of a measured process. Each process uses its own database.
import { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { TTL_MS } from './population.mjs';

/** An ioredis client with its defaults. */
export function connectIoredis({ port, db }) {
  return new Redis({ host: '127.0.0.1', port, db });
}

/** A Rollcall client with default options, except that connections never expire. */
export function connectRollcall({ port, db }, options = {}) {
  return PresenceClient.connect({
    url: `redis://127.0.0.1:${port}/${db}`,
    ttlMs: TTL_MS,
    ...options,
  });
}
