// The stores of the conformance tests (Redis in both layouts, a Redis Cluster, and the in-process
// store), and helpers: clients that are closed after each test, recorded events, and the check that
// no keys are left (spec 2.3).
import type { Redis } from 'ioredis';
import { type ClientOptions, type Logger, PresenceClient, type PresenceEvent } from 'rollcall';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type RedisCluster, sharedCluster } from '../support/cluster.js';
import { type RedisServer, sharedDb } from '../support/redis.js';
import { jsonDb, noRedisJson } from '../support/redisjson.js';
import { eventually } from '../support/wait.js';

/** Any state: tests pass values that TypeScript would not allow. */
// biome-ignore lint/suspicious/noExplicitAny: see above
export type AnyState = any;
export type Client = PresenceClient<AnyState>;
export type AnyEvent = PresenceEvent<AnyState>;

/** Only for stores on Redis: where to find the data. */
export interface RedisSide {
  server: RedisServer;
  db: number;
  url: string;
}

const STORES = ['redis', 'memory', 'slotted', 'cluster'] as const;
export type StoreName = (typeof STORES)[number];

export interface StoreUnderTest {
  readonly name: StoreName;
  /** Default options of its clients. */
  readonly defaults: ClientOptions;
  /** A client of the test's store; closed after the test. */
  connect(options?: ClientOptions): Promise<Client>;
  /** The location of the current test's data, if they are in one Redis. */
  redis(): RedisSide;
  /** A URL of the current test's store. */
  url(): string;
}

/** Long enough for a connection to outlive any test, even on a slow machine. */
export const LONG_TTL_MS = 600_000;
/** Expires at once. */
export const SHORT_TTL_MS = 1;

export const silent: Logger = {};

/**
 * Runs the tests with `liveness: "node"`. Clients with a short TTL keep `liveness: "heartbeat"`, so
 * tests of expiry are tests of a mixed fleet.
 */
export const ofNodes = process.env.ROLLCALL_LIVENESS === 'node';

let stores = 0;

/** Clients of a cluster, whose events have no common order. */
export const ofCluster = new WeakSet<object>();

/** Runs the tests of `body` on every store, except those in `without`, with its reason. */
export function onEveryStore(
  title: string,
  body: (store: StoreUnderTest) => void,
  without: Partial<Record<StoreName, string>> = {},
): void {
  for (const name of STORES) {
    const why = without[name];
    describe(`${title} [${name}]`, () => {
      if (why === undefined) body(useStore(name));
      else test.skip(`not run: ${why}`, () => {});
    });
  }
}

/** Runs tests of locks that guard metadata on every store that supports them. */
export function onStoresWithLockName(title: string, body: (store: StoreUnderTest) => void): void {
  onEveryStore(title, body, {
    cluster: 'a lock and metadata are in different slots, so it is refused there with UNSUPPORTED',
  });
}

/** Every way to store a state (spec section 9); the in-process store accepts the options, too. */
export const STORAGES: Record<string, ClientOptions> = {
  inline: {},
  separate: { stateStorage: 'separate' },
  'inline, gzip': { stateCompression: { thresholdBytes: 64 } },
  'separate, gzip': { stateStorage: 'separate', stateCompression: { thresholdBytes: 64 } },
  'separate, zstd': {
    stateStorage: 'separate',
    stateCompression: { thresholdBytes: 64, codec: 'zstd' },
  },
};

/**
 * Runs the tests of `body` on every store with every way to store a state; on the layout of a
 * cluster, only with those that differ in their keys.
 */
export function onEveryStorage(title: string, body: (store: StoreUnderTest) => void): void {
  const on = (name: StoreName, storage: string) =>
    describe(`${title} [${name}, ${storage}]`, () => body(useStore(name, STORAGES[storage] ?? {})));
  for (const storage of Object.keys(STORAGES)) on('redis', storage);
  on('memory', 'separate, zstd');
  for (const name of ['slotted', 'cluster'] as const) {
    on(name, 'inline');
    on(name, 'separate, gzip');
  }
}

/** Runs the tests of `body` on every store, and on Redis with records as RedisJSON documents. */
export function onEveryMetadataStore(title: string, body: (store: StoreUnderTest) => void): void {
  onEveryStore(title, body);
  describe.skipIf(noRedisJson)(`${title} [redis, json]`, () =>
    body(useStore('redis', { metadataStorage: 'json' }, jsonDb)),
  );
}

/**
 * A store for the tests of the surrounding `describe`, empty before and after each. `defaults` are
 * the default options of its clients.
 */
export function useStore(
  name: StoreName,
  defaults: ClientOptions = {},
  open = sharedDb,
): StoreUnderTest {
  let side: RedisSide | undefined;
  let cluster: RedisCluster | undefined;
  let url = '';
  let clients: Client[] = [];
  const seen = { conns: new Set<string>(), rooms: new Set<string>(), users: new Set<string>() };

  beforeEach(async () => {
    if (name === 'cluster') {
      cluster ??= await sharedCluster();
      url = cluster.url;
      expect(await cluster.keys()).toEqual([]);
    } else if (name === 'redis' || name === 'slotted') {
      side ??= await open();
      url = side.url;
      expect(await side.server.dbsize(side.db)).toBe(0);
    } else {
      url = `memory://conformance-${++stores}`;
    }
  });

  const connect = async (options: ClientOptions = {}): Promise<Client> => {
    const client: Client = await PresenceClient.connect({
      url,
      ttlMs: LONG_TTL_MS,
      logger: silent,
      ...(name === 'slotted' ? { layout: 'slotted' } : {}),
      ...(ofNodes && options.ttlMs === undefined ? { liveness: 'node' } : {}),
      ...defaults,
      ...options,
      // A late answer of a busy machine is not a fault of the store.
      limits: { commandTimeoutMs: 30_000, ...defaults.limits, ...options.limits },
    });
    clients.push(client);
    if (cluster) ofCluster.add(client);
    // Records every id that joined; the call itself is unchanged.
    const join = client.join.bind(client);
    client.join = (joining) => {
      seen.conns.add(joining.connId);
      seen.rooms.add(joining.roomId);
      seen.users.add(joining.userId);
      return join(joining);
    };
    return client;
  };

  // Spec 2.3, after every test: all connections leave, and no keys may be left.
  afterEach(async () => {
    const last = clients.length > 0 ? await connect({ ttlMs: SHORT_TTL_MS }) : undefined;
    try {
      await Promise.all([...seen.conns].map((conn) => ignoreRefused(last?.leave(conn))));
      await eventually(async () => {
        await last?.reapOnce();
        for (const room of seen.rooms) {
          expect(await ignoreRefused(last?.fetchRoomSnapshot(room))).toEqual([]);
        }
        for (const user of seen.users) {
          const found = await ignoreRefused(last?.getUserPresence(user));
          expect(found).toEqual(emptyUser(user, found));
        }
        if (side) {
          await forgetMetadata(side, name === 'slotted');
          const nodes = await nodeKeys(side);
          expect((await side.server.dbsize(side.db)) - nodes, 'DBSIZE').toBe(0);
        }
        if (cluster) {
          const stays = /^prs:(\{chan:.*\}:meta|lock_due|nodes|\{node:[^}]*\})$/s;
          const left = (await cluster.keys()).filter((key) => !stays.test(key));
          expect(left, 'keys').toEqual([]);
        }
      });
    } finally {
      await Promise.all(clients.map((client) => client.close()));
      clients = [];
      if (side) expect(await nodeKeys(side), 'records of closed nodes').toBe(0);
      for (const ids of Object.values(seen)) ids.clear();
      // Keys that one test has left must not fail the next tests, too.
      await side?.server.flush(side.db);
      await cluster?.flush();
    }
  });

  return {
    name,
    defaults,
    connect,
    redis: () => {
      if (!side) throw new Error('this store is not Redis');
      return side;
    },
    url: () => url,
  };
}

/**
 * A channel's record stays when it is empty, because its revision must not be used again. On
 * `slotted` an entry in the index of lock expiries stays until its time.
 */
async function forgetMetadata({ server, db }: RedisSide, slotted: boolean): Promise<void> {
  const redis = await server.client(db);
  const records = await redis.keys('prs:{chan:*}:meta');
  if (slotted && (await redis.keys('prs:{lock:*')).length === 0) records.push('prs:lock_due');
  if (records.length > 0) await redis.del(records);
  redis.disconnect();
}

/** Keys of nodes that have no connections. */
const OF_A_NODE = /^prs:(nodes|\{node:[^}]*\})$/;

/** Number of keys of nodes that are connected and have no connections. */
async function nodeKeys({ server, db }: RedisSide): Promise<number> {
  const redis = await server.client(db);
  const keys = await redis.keys('*');
  redis.disconnect();
  return keys.filter((key) => OF_A_NODE.test(key)).length;
}

/** Number of keys but for those of nodes that have no connections; 0 without Redis. */
export async function keysBesideNodes(redis: Redis | undefined): Promise<number> {
  const keys = (await redis?.keys('*')) ?? [];
  return keys.filter((key) => !OF_A_NODE.test(key)).length;
}

/** An ioredis client of the current test's database, a new one for each test of the `describe`. */
export function useIoredis(store: StoreUnderTest, take: (redis: Redis) => void): void {
  beforeEach(async () => {
    const { server, db } = store.redis();
    const redis = await server.client(db);
    take(redis);
    return () => redis.disconnect();
  });
}

/** Ids that are refused have left no keys. */
async function ignoreRefused<T>(call: Promise<T> | undefined): Promise<T | []> {
  try {
    return (await call) ?? [];
  } catch (error) {
    if ((error as { code?: string }).code === 'INVALID_ARGUMENT') return [];
    throw error;
  }
}

function emptyUser(userId: string, found: unknown): unknown {
  return Array.isArray(found) ? [] : { userId, rooms: [], connections: [] };
}

/** Recorded events. */
export interface Recorder {
  readonly events: AnyEvent[];
  /**
   * All events so far, including those of all changes applied before this call. A marker joins and
   * leaves, and its events are awaited; the events of a store are in the order of application. On a
   * cluster only the events of one master are in order, so there is a marker on each.
   */
  settled(): Promise<AnyEvent[]>;
  stop(): Promise<void>;
}

const MARKER = 'marker-of-the-tests';
let markers = 0;

/** Subscribes to all rooms, or to one. */
export async function record(client: Client, options: { roomId?: string } = {}): Promise<Recorder> {
  const all: AnyEvent[] = [];
  const events: AnyEvent[] = [];
  const stop = await client.subscribe((event) => {
    all.push(event);
    if (!event.connId.startsWith(MARKER)) events.push(event);
  }, options);
  return {
    events,
    stop,
    settled: async () => {
      const number = ++markers;
      // The slots of these names are on the first, second and third of three masters.
      const names = ofCluster.has(client) ? [0, 1, 2].map((i) => `${MARKER}${i}`) : [MARKER];
      const rooms = options.roomId === undefined ? names : [options.roomId];
      for (const [i, roomId] of rooms.entries()) {
        const connId = `${MARKER}-${number}-${i}`;
        await client.join({ roomId, userId: MARKER, connId, snapshot: false });
        await client.leave(connId);
        await eventually(() => all.some((event) => event.connId === connId), { intervalMs: 1 });
      }
      return [...events];
    },
  };
}

/** An event as short text: `join c1 r1 u1`, `leave c1 r1 u1 left`. */
export function brief(event: AnyEvent): string {
  const reason = event.type === 'leave' ? ` ${event.reason}` : '';
  return `${event.type} ${event.connId} ${event.roomId} ${event.userId}${reason}`;
}

/** Entries as they were, but for the time of the last sign of life if a node answers for them. */
export function unchanged<T extends { lastSeenMs: number }>(entries: readonly T[]): unknown[] {
  return entries.map((entry) => (ofNodes ? { ...entry, lastSeenMs: expect.any(Number) } : entry));
}

/** Resolves after the connection's TTL. */
export async function expired(client: Client, roomId: string, connId: string): Promise<void> {
  await eventually(
    async () => !(await client.fetchRoomSnapshot(roomId)).some((entry) => entry.connId === connId),
    { intervalMs: 1 },
  );
}

/** The entries by connection id. */
export function byConn<T extends { connId: string }>(entries: readonly T[]): T[] {
  return [...entries].sort((a, b) => (a.connId < b.connId ? -1 : 1));
}

/** The errors with a class of their own. */
const NAMES: Record<string, string> = {
  METADATA_CONFLICT: 'MetadataConflictError',
  METADATA_LOCK: 'MetadataLockError',
  METADATA_INVALID: 'MetadataValidationError',
};

/** Matches a rejection with this code whose message contains `part`. */
export function failure(code: string, part = ''): unknown {
  return expect.objectContaining({
    name: NAMES[code] ?? 'RollcallError',
    code,
    message: expect.stringContaining(part),
  });
}
