// The database that the tests of locks on one Redis have to themselves, and a client that looks into it.
import type { Redis } from 'ioredis';
import { beforeEach } from 'vitest';
import { type RedisServer, sharedDb } from '../support/redis.js';

/** Before each test: a database that is empty, and a connection to it that ends with the test. */
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
