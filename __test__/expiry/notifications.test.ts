// Keyspace notifications (spec 6.4) on servers with other flags, without CONFIG, and with lost
// notifications.
import { type ClientOptions, PresenceClient } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type AnyState, type Client, record } from '../conformance/stores.js';
import { keepLog } from '../support/clients.js';
import { type RedisServer, type RedisServerOptions, startRedis } from '../support/redis.js';
import { eventually, slowness } from '../support/wait.js';
import { expectTimely, joinAll, leavesOf, MARGIN_MS } from './expiry.js';

const TTL_MS = 300;
const FLAGS = 'notify-keyspace-events';

async function start(options: RedisServerOptions = {}): Promise<RedisServer> {
  const server = await startRedis(options);
  onTestFinished(() => server[Symbol.asyncDispose]());
  return server;
}

async function connect(options: ClientOptions): Promise<Client> {
  const client = await PresenceClient.connect<AnyState>({ ttlMs: TTL_MS, logger: {}, ...options });
  onTestFinished(() => client.close());
  return client;
}

/** Joins connections without heartbeats; returns the join times. */
function joinSome(client: Client, prefix = 'c'): Promise<Map<string, number>> {
  return joinAll(
    client,
    Array.from({ length: 10 }, (_, i) => ({
      roomId: `${prefix}${i % 3}`,
      userId: 'u',
      connId: `${prefix}${i}`,
    })),
  );
}

async function flags(server: RedisServer): Promise<string[]> {
  const [, text = ''] = (await (await server.client()).config('GET', FLAGS)) as string[];
  return [...text].sort();
}

describe('flags of notify-keyspace-events', () => {
  test.each([
    ['', 'Ex'],
    ['Kg$', 'Kg$Ex'],
    ['KEA', 'AKE'],
    ['KEx', 'KEx'],
    ['El', 'Elx'],
  ])('6.4: from "%s" to "%s"', async (before, after) => {
    const server = await start({ notifyKeyspaceEvents: before });
    const client = await connect({ url: server.url, expiry: 'notifications' });
    const recorder = await record(client);
    await client.startReaper();
    await eventually(async () => expect(await flags(server)).toEqual([...after].sort()));
    const lastSeen = await joinSome(client);
    await eventually(() => leavesOf(recorder.events).length >= 10);
    expectTimely(leavesOf(recorder.events), lastSeen, { ttlMs: TTL_MS, latestMs: MARGIN_MS });
    // The first expiration wakes the reaper, which may finish before the last one.
    await eventually(() => expect(client.metrics().notifications).toBe(10));
    // Keys of other applications have no effect.
    const redis = await server.client();
    await redis.set('other', 1, 'PX', 1);
    await eventually(async () => (await redis.dbsize()) === 0);
    expect(client.metrics().notifications).toBe(10);
  });

  test('6.4: only expirations of the client’s database have an effect', async () => {
    const server = await start();
    const [one, two] = await Promise.all(
      [1, 2].map((db) => connect({ url: server.urlFor({ db }), expiry: 'notifications' })),
    );
    await one?.startReaper();
    await two?.startReaper();
    await eventually(async () => expect(await flags(server)).toEqual(['E', 'x']));
    await two?.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await eventually(() => two?.metrics().expired === 1);
    expect(one?.metrics().notifications).toBe(0);
  });
});

describe.each(['notifications', 'both'] as const)('a server without CONFIG [%s]', (expiry) => {
  test.each([
    [
      'forbids CONFIG to the user',
      { users: { node: 'on >pass ~* &* +@all -config' } },
      { username: 'node', password: 'pass' },
    ],
    ['has no CONFIG command', { config: { 'rename-command': 'CONFIG ""' } }, {}],
    // CONFIG is allowed, but the channel of the notifications is not.
    [
      'forbids the channel to the user',
      { users: { node: 'on >pass ~* resetchannels &prs:{room:*}:events +@all' } },
      { username: 'node', password: 'pass' },
    ],
  ] as const)(
    '6.4: it %s: the sweep finds expired connections, and this is logged once',
    async (_, options, user) => {
      const server = await start(options);
      const nodes = await Promise.all(
        [1, 2, 3].map(async () => {
          const logger = keepLog();
          // The fallback sweep would be too slow.
          const slow = { sweepIntervalMs: 200, fallbackSweepMs: 60_000 };
          const client = await connect({ url: server.urlFor(user), expiry, ...slow, logger });
          await client.startReaper();
          return { client, logger };
        }),
      );
      const [{ client }] = nodes as [(typeof nodes)[0]];
      const recorder = await record(client);
      for (const round of ['a', 'b', 'c']) {
        const lastSeen = await joinSome(client, round);
        const before = leavesOf(recorder.events).length;
        await eventually(() => leavesOf(recorder.events).length >= before + 10);
        const leaves = leavesOf(recorder.events).slice(before);
        expectTimely(leaves, lastSeen, { ttlMs: TTL_MS, latestMs: 200 + MARGIN_MS });
      }
      for (const { client, logger } of nodes) {
        await client.startReaper();
        expect(logger.lines.filter((line) => /sweeping/.test(line))).toEqual([
          expect.stringMatching(/^warn .*does not let this user.*found by sweeping/),
        ]);
      }
      expect(await server.dbsize()).toBe(0);
    },
  );
});

describe('lost notifications', () => {
  const FALLBACK_MS = 2000;

  async function watched(server: RedisServer, fallbackSweepMs: number) {
    // Another database has other notifications, but its subscribers are killed too. The events use
    // a separate client, so that no event is lost.
    const node = await connect({
      url: server.url,
      expiry: 'notifications',
      sweepIntervalMs: 200,
      fallbackSweepMs,
    });
    await node.startReaper();
    await eventually(async () => expect(await flags(server)).toEqual(['E', 'x']));
    const sub = await server.client();
    await eventually(async () => {
      const channel = '__keyevent@0__:expired';
      expect(await sub.pubsub('NUMSUB', channel)).toEqual([channel, 1]);
    });
    return node;
  }

  /** Waits until all connections are gone from the indices; returns the time of Redis. */
  async function allGone(server: RedisServer): Promise<number> {
    const redis = await server.client();
    await eventually(async () => (await redis.dbsize()) === 0, { timeoutMs: 15_000 });
    const [seconds = 0, micros = 0] = await redis.time();
    return Number(seconds) * 1000 + Number(micros) / 1000;
  }

  test('6.4: without any sign of the loss: at most fallbackSweepMs later', async () => {
    const server = await start();
    const node = await watched(server, FALLBACK_MS);
    const recorder = await record(node);
    await (await server.client()).config('SET', FLAGS, '');
    const lastSeen = await joinSome(node);
    await eventually(() => leavesOf(recorder.events).length >= 10, { timeoutMs: 10_000 });
    const latestMs = FALLBACK_MS + MARGIN_MS;
    expectTimely(leavesOf(recorder.events), lastSeen, { ttlMs: TTL_MS, latestMs });
    expect(node.metrics().notifications).toBe(0);
  });

  test('6.4: the subscriber is killed after each reconnect: at most fallbackSweepMs later', async () => {
    const server = await start();
    const node = await watched(server, FALLBACK_MS);
    const redis = await server.client();
    const lastSeen = await joinSome(node);
    let gone: number | undefined;
    const done = allGone(server).then((at) => {
      gone = at;
    });
    while (gone === undefined) await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await done;
    const last = Math.max(...lastSeen.values());
    expect(gone - last - TTL_MS).toBeLessThanOrEqual((FALLBACK_MS + MARGIN_MS) * slowness());
  });

  test('6.4: the subscriber is killed once during the expirations: it checks after its reconnect', async () => {
    const server = await start();
    const node = await watched(server, 60_000);
    const redis = await server.client();
    for (let round = 0; round < 5; round++) {
      const lastSeen = await joinSome(node, `round${round}-`);
      // When the first connection has just expired, or all have.
      await eventually(
        async () => (await redis.exists(`prs:conn:round${round}-${round % 2 ? 0 : 9}`)) === 0,
        { intervalMs: 1 },
      );
      await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      const gone = await allGone(server);
      const last = Math.max(...lastSeen.values());
      expect(gone - last - TTL_MS).toBeLessThanOrEqual(MARGIN_MS * slowness());
    }
    expect(node.metrics().resyncs).toBe(5);
  });

  test('6.4: a restarted server has lost the flags: they are set again, and connections that expired in the meantime are found', async () => {
    const server = await start({ appendonly: true });
    const node = await watched(server, 60_000);
    await joinSome(node, 'down');
    await server.stop();
    await server.start();
    const [seconds = 0] = await (await server.client()).time();
    const gone = await allGone(server);
    expect(gone - Number(seconds) * 1000).toBeLessThanOrEqual(
      TTL_MS + 1000 + 2 * MARGIN_MS * slowness(),
    );
    await eventually(async () => expect(await flags(server)).toEqual(['E', 'x']));

    const { notifications } = node.metrics();
    const lastSeen = await joinSome(node, 'up');
    const last = Math.max(...lastSeen.values());
    expect((await allGone(server)) - last - TTL_MS).toBeLessThanOrEqual(MARGIN_MS * slowness());
    await eventually(() => expect(node.metrics().notifications - notifications).toBe(10));
  });

  test('6.4: CONFIG is forbidden later: events and sweeps continue', async () => {
    const server = await start({ users: { node: 'on >pass ~* &* +@all' } });
    const url = server.urlFor({ username: 'node', password: 'pass' });
    const logger = keepLog();
    const options = { expiry: 'notifications', fallbackSweepMs: FALLBACK_MS, logger } as const;
    const node = await connect({ url, ...options });
    const recorder = await record(node);
    await node.startReaper();
    await eventually(async () => expect(await flags(server)).toEqual(['E', 'x']));
    const redis = await server.client();
    await redis.acl('SETUSER', 'node', '-config');
    await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(() => node.metrics().resyncs === 1);
    const lastSeen = await joinSome(node);
    await eventually(() => leavesOf(recorder.events).length >= 10, { timeoutMs: 10_000 });
    const latestMs = FALLBACK_MS + MARGIN_MS;
    expectTimely(leavesOf(recorder.events), lastSeen, { ttlMs: TTL_MS, latestMs });
  });
});
