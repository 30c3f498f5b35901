// A separate database for the lock tests on one Redis, and an ioredis client for it.
import type { Redis } from 'ioredis';
import { beforeEach } from 'vitest';
import { type RedisServer, sharedDb } from '../support/redis.js';

/** Before each test: an empty database, and a connection to it that ends with the test. */
export function useSharedDb(
  take: (db: { server: RedisServer; url: string; redis: Redis }) => void,
): void {
  beforeEach(async () => {
    const { server, db, url } = await sharedDb();
    const redis = await server.client(db);
    take({ server, url, redis });
    return () => redis.disconnect();
  });
}
