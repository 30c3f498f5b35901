// ioredis-mock: a client of the tests of many servers, behind which there is no Redis. It is known by its
// looks, as the real clients are.

/** The names of its class in the versions of the last years. */
const CLASSES: ReadonlySet<unknown> = new Set(['RedisMock', '_RedisMock']);

/** Whether this is a client of ioredis-mock, or of a subclass of its. */
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
    // A getter or a Proxy that throws is no mock.
  }
  return false;
}

/**
 * The in-process store in its place. Mocks of one address and database share their data, and so do the
 * services that are made from them.
 */
export function mockUrl({ options = {} }: { readonly options?: object }): string {
  const { host, port, db, keyPrefix } = options as Record<string, unknown>;
  const name = JSON.stringify([host ?? null, port ?? null, db ?? 0, keyPrefix ?? '']);
  return `memory://ioredis-mock-${encodeURIComponent(name)}`;
}

export const MOCK_NOTICE =
  'redis is an ioredis-mock: presence is kept in this process. Nothing of it is written to the mock, and ' +
  'flushing the mock does not empty it';
