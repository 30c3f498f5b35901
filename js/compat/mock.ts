// ioredis-mock: the Redis client in the tests of many servers, without a Redis. It is recognized by
// its shape, like the real clients.

/** The names of its class in recent versions. */
const CLASSES: ReadonlySet<unknown> = new Set(['RedisMock', '_RedisMock']);

/** Whether this is a client of ioredis-mock, or of a subclass. */
export function isMock(redis: unknown): redis is { readonly options?: object } {
  if (typeof redis !== 'object' || redis === null) {
    return false;
  }
  try {
    for (let of: unknown = redis; of !== null; of = Object.getPrototypeOf(of)) {
      if (CLASSES.has((of as { constructor?: { name?: unknown } }).constructor?.name)) {
        return true;
      }
    }
  } catch {
    // A getter or a Proxy that throws is not a mock.
  }
  return false;
}

/**
 * The URL of the in-process store for a mock. Mocks of one address and database share their data,
 * and so do the services that use them.
 */
export function mockUrl({ options = {} }: { readonly options?: object }): string {
  const { host, port, db, keyPrefix } = options as Record<string, unknown>;
  const name = JSON.stringify([host ?? null, port ?? null, db ?? 0, keyPrefix ?? '']);
  return `memory://ioredis-mock-${encodeURIComponent(name)}`;
}

export const MOCK_NOTICE =
  'redis is an ioredis-mock: presence is kept in this process. Nothing of it is written to the mock, and ' +
  'flushing the mock does not empty it';
