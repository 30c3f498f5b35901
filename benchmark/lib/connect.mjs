// The clients of a measured process. Each process has a database of its own.
import { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { TTL_MS } from './population.mjs';

/** An ioredis client with its defaults. */
export function connectIoredis({ port, db }) {
  return new Redis({ host: '127.0.0.1', port, db });
}

/** A Rollcall client with its defaults, but for connections that never run out. */
export function connectRollcall({ port, db }, options = {}) {
  return PresenceClient.connect({
    url: `redis://127.0.0.1:${port}/${db}`,
    ttlMs: TTL_MS,
    ...options,
  });
}
