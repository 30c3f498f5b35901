// Spec 8.6: locks on a majority of five servers.
import type { AcquireOptions, PresenceClient } from 'rollcall';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { fired } from '../conformance/locks.js';
import { failure } from '../conformance/stores.js';
import { openClient, type Untyped } from '../support/clients.js';
import { createRandom } from '../support/random.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { size } from '../support/size.js';
import { eventually, startClock } from '../support/wait.js';

type Client = PresenceClient<Untyped>;

const ADA: AcquireOptions = { ownerId: 'ada' };
const BOB: AcquireOptions = { ownerId: 'bob' };
const CHANNEL = { channelType: 'doc', channelName: 'd' };
const KEY = 'prs:lock:l';
const TOKEN = 'prs:{prs:lock:l}:token';

let servers: RedisServer[];

beforeAll(async () => {
  // Their data survive a kill, unless a test says otherwise.
  servers = await Promise.all(Array.from({ length: 5 }, () => startRedis({ appendonly: true })));
});

afterAll(async () => {
  await Promise.all(servers.map((server) => server[Symbol.asyncDispose]()));
});

beforeEach(async () => {
  for (const server of servers) {
    server.resume();
    if (!server.running) await server.start();
    await server.flush();
  }
});

// Before the clients are closed: they release the locks that they hold.
afterEach(() => {
  for (const server of servers) server.resume();
});

function connect(options: object = {}): Promise<Client> {
  return openClient({ url: servers.map(({ url }) => url), ...options });
}

/** Options for a single attempt, for locks that cannot be acquired. */
const IMPATIENT = { locks: { retryCount: 0 } };

/** The number of running servers that have the key. */
async function count(key: string): Promise<number> {
  const found = await Promise.all(
    servers.map(async (server) => {
      if (!server.running) return 0;
      const redis = await server.client();
      const exists = await redis.exists(key);
      redis.disconnect();
      return exists;
    }),
  );
  return found.reduce((sum, one) => sum + one, 0);
}

async function set(server: RedisServer, key: string, value: string): Promise<void> {
  const redis = await server.client();
  await redis.set(key, value);
  redis.disconnect();
}

function pick(...places: number[]): RedisServer[] {
  return places.map((place) => servers[place] as RedisServer);
}

test('8.6 a lock is on all servers, with one token, and released on all', async () => {
  const [one, two] = [await connect(), await connect(IMPATIENT)];
  const lock = await one.locks.acquire('l', ADA);
  expect(await count(KEY)).toBe(5);
  for (const server of servers) {
    const redis = await server.client();
    expect(await redis.get(TOKEN)).toBe(String(lock.fencingToken));
    redis.disconnect();
  }
  expect(await two.locks.inspect('l')).toMatchObject({
    ownerId: 'ada',
    fencingToken: lock.fencingToken,
  });
  await expect(two.locks.acquire('l', BOB)).rejects.toEqual(failure('LOCK_UNAVAILABLE', '"ada"'));
  await lock.release();
  expect(await count(KEY)).toBe(0);
  expect(await two.locks.inspect('l')).toBeNull();
});

test('8.6: it works with two servers down, even if they were down from the start', async () => {
  const early = await connect();
  for (const server of pick(3, 4)) await server.kill();
  const late = await connect();
  for (const client of [early, late]) {
    const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 3_000 });
    expect(await count(KEY)).toBe(3);
    const first = lock.expiresAt;
    await eventually(() => lock.expiresAt > first + 3_000, { timeoutMs: 20_000 });
    await lock.extend();
    await lock.release();
    expect(await count(KEY)).toBe(0);
  }
});

test('8.6: it fails with three servers down, within the retry budget, and leaves no keys', async () => {
  const client = await connect();
  for (const server of pick(2, 3, 4)) await server.kill();
  // 3 more attempts, with 200 to 400 ms before each: the message counts them, so no clock is
  // needed.
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure(
      'LOCK_UNAVAILABLE',
      '3 of 5 servers: 2 answered, nobody else is known to hold it; tried 4',
    ),
  );
  expect(await count(KEY)).toBe(0);
  expect(await count(TOKEN)).toBe(0);
  await expect(client.locks.inspect('l')).rejects.toEqual(failure('UNAVAILABLE', '2 of 5'));
});

test('8.6: it fails with three servers that do not answer, and leaves no keys when they answer again', async () => {
  const client = await connect(IMPATIENT);
  for (const server of pick(2, 3, 4)) server.pause();
  await expect(client.locks.acquire('l', { ...ADA, ttlMs: 600_000 })).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '2 answered'),
  );
  for (const server of servers) server.resume();
  // They run the delayed request, and then the release: long before the TTL.
  await eventually(async () => expect(await count(KEY)).toBe(0));
  await (await client.locks.acquire('l', ADA)).release();
});

test('8.6 a grant of a minority is released', async () => {
  const client = await connect(IMPATIENT);
  for (const server of pick(0, 1, 2)) await set(server, KEY, 'bob');
  await expect(client.locks.acquire('l', ADA)).rejects.toEqual(
    failure('LOCK_UNAVAILABLE', '"bob"'),
  );
  for (const server of pick(3, 4)) expect(await server.dbsize()).toBe(0);
  // A failed attempt uses no token, so it affects no other client.
  expect(await count(TOKEN)).toBe(0);
  expect(await client.locks.inspect('l')).toMatchObject({ ownerId: 'bob', fencingToken: null });
});

test('8.6 waitMs retries; a signal ends it', async () => {
  const [one, two] = [await connect(), await connect()];
  const lock = await one.locks.acquire('l', ADA);
  const controller = new AbortController();
  const { signal } = controller;
  const gone = two.locks.acquire('l', { ...BOB, waitMs: Number.POSITIVE_INFINITY, signal });
  const next = two.locks.acquire('l', { ownerId: 'cy', waitMs: 60_000 });
  const reason = new Error('enough');
  controller.abort(reason);
  const error: Error = await gone.then(
    () => expect.fail('granted'),
    (thrown) => thrown,
  );
  expect(error).toEqual(failure('LOCK_UNAVAILABLE', 'signal was aborted'));
  expect(error.cause).toBe(reason);
  await lock.release();
  const held = await next;
  expect(held.fencingToken).toBeGreaterThan(lock.fencingToken);
  await held.release();
});

test('8.5 and 8.6: lost fires when no majority renews the lock', async () => {
  const client = await connect();
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 600 });
  for (const server of pick(2, 3, 4)) await server.kill();
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  for (const server of pick(2, 3, 4)) await server.start();
  const other = await connect();
  const next = await other.locks.acquire('l', { ...BOB, waitMs: 20_000 });
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  await next.release();
});

test('8.6 servers that were down join the lock again with the next renewal', async () => {
  const client = await connect();
  for (const server of pick(3, 4)) await server.kill();
  const lock = await client.locks.acquire('l', { ...ADA, ttlMs: 900 });
  for (const server of pick(3, 4)) await server.start();
  await eventually(async () => expect(await count(KEY)).toBe(5));
  // So that others can stop now.
  for (const server of pick(1, 2)) await server.kill();
  const before = lock.expiresAt;
  await eventually(() => lock.expiresAt > before + 900);
  await lock.release();
});

test('8.6: a server that returns empty, so that two clients hold the lock: the token distinguishes them', async () => {
  const [one, two] = [await connect(), await connect()];
  for (const server of pick(3, 4)) await server.kill();
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  const [empty] = pick(2) as [RedisServer];
  await empty.flush();
  for (const server of pick(3, 4)) await server.start();
  // Servers 2, 3 and 4 have no record of it.
  const next = await two.locks.acquire('l', { ...BOB, waitMs: 20_000 });
  expect(await count(KEY)).toBe(5);
  expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
  // The server with the metadata still has the first lock, but it knows the newer token.
  await expect(
    one.metadata.set({
      ...CHANNEL,
      data: [],
      options: { lockName: 'l' },
      actorUserId: 'ada',
      fencingToken: lock.fencingToken,
    }),
  ).rejects.toEqual(failure('METADATA_LOCK'));
  await next.release();
});

test('8.6: a server whose clock has jumped ahead: its lock ends early, its tokens are large', async () => {
  const [one, two] = [await connect(), await connect(IMPATIENT)];
  const [jumped] = pick(4) as [RedisServer];
  // The effect of its clock: tokens an hour ahead, and keys that expire too early.
  const ahead = (Date.now() + 3_600_000) * 1000;
  await set(jumped, TOKEN, String(ahead));
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600_000 });
  expect(lock.fencingToken).toBe(ahead + 1);
  const redis = await jumped.client();
  await redis.del(KEY, 'prs:{prs:lock:l}:holder');
  redis.disconnect();
  // One server is not a majority.
  await expect(two.locks.acquire('l', BOB)).rejects.toEqual(failure('LOCK_UNAVAILABLE', '"ada"'));
  await lock.release();
  // The next majority also knows the first token, although that server is not part of it.
  await jumped.kill();
  const next = await two.locks.acquire('l', BOB);
  expect(next.fencingToken).toBeGreaterThan(ahead + 1);
  await next.release();
});

test('8.3 and 8.6: tokens grow from majority to majority, for any two servers that are down', async () => {
  const random = createRandom(7);
  const client = await connect();
  // So that clocks do not help: each majority must learn the token from the previous one.
  const ahead = (Date.now() + 3_600_000) * 1000;
  await set(servers[0] as RedisServer, TOKEN, String(ahead));
  const tokens: number[] = [];
  let down: number[] = [];
  for (let round = 0; round < size(2, 4); round++) {
    for (const place of down) await servers[place]?.start();
    const lock = await client.locks.acquire('l', { ...ADA, waitMs: 20_000 });
    tokens.push(lock.fencingToken);
    down = random.shuffle([1, 2, 3, 4]).slice(0, 1);
    if (round > 0) down.push(0);
    for (const place of down) await servers[place]?.kill();
    await lock.release();
    const again = await client.locks.acquire('l', { ...ADA, waitMs: 20_000 });
    tokens.push(again.fencingToken);
    await again.release();
  }
  expect(tokens[0]).toBeGreaterThan(ahead);
  expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
}, 60_000);

test('8.6 one holder at a time, with contenders in several clients', async () => {
  const clients = [await connect(), await connect(), await connect()];
  let inside = 0;
  const tokens: number[] = [];
  await Promise.all(
    clients.map(async (client, n) => {
      for (let round = 0; round < 5; round++) {
        const lock = await client.locks.acquire('l', { ownerId: `c${n}`, waitMs: 60_000 });
        expect(++inside).toBe(1);
        tokens.push(lock.fencingToken);
        expect(await client.locks.inspect('l')).toMatchObject({ ownerId: `c${n}` });
        inside--;
        await lock.release();
      }
    }),
  );
  expect(tokens.length).toBe(15);
  expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
});

test('8.7 revoke ends the lock on all servers; there are no events', async () => {
  const [one, two] = [await connect(), await connect()];
  const lock = await one.locks.acquire('l', { ...ADA, ttlMs: 600 });
  expect(await two.locks.revoke('l')).toEqual({ ownerId: 'ada', fencingToken: lock.fencingToken });
  expect(await count(KEY)).toBe(0);
  expect(await fired(lock.lost)).toEqual(failure('LOCK_LOST'));
  expect(await two.locks.revoke('l')).toBeNull();
  await expect(two.locks.subscribe(() => {})).rejects.toEqual(failure('UNSUPPORTED'));
});

test('8.6 locks can be on separate servers; all other data are on the server of url', async () => {
  const urls = pick(1, 2, 3).map(({ url }) => url);
  const client = await openClient({ url: servers[0]?.url as string, locks: { urls } });
  const lock = await client.locks.acquire('l', ADA);
  expect(await servers[0]?.dbsize()).toBe(0);
  expect(await count(KEY)).toBe(3);
  await lock.release();
});

test.each([
  ['two servers', ['redis://127.0.0.1:1', 'redis://127.0.0.1:2'], 'at least 3'],
  ['one twice', ['redis://a:1', 'redis://b:1', 'redis://a:1'], 'twice'],
  ['an empty list', [], 'at least one'],
  ['an invalid entry', ['redis://127.0.0.1:1', 5], 'url'],
] as const)('8.6 %s is refused', async (_, url, named) => {
  await expect(openClient({ url } as never)).rejects.toEqual(failure('INVALID_ARGUMENT', named));
});

test('6 a lock server that does not answer does not delay the reaper', async () => {
  const [main, ...others] = servers as [RedisServer, ...RedisServer[]];
  const client = await openClient({
    url: main.url,
    locks: { urls: others.map(({ url }) => url) },
    limits: { commandTimeoutMs: 5_000 },
  });
  await client.reapOnce();
  others[0]?.pause();
  const clock = startClock();
  await client.reapOnce();
  expect(clock.ms).toBeLessThan(2_500);
});
