// Spec 6.8: the wall clock of the Redis server jumps, and legacy nodes write times of their own
// clocks. Rollcall does not trust a score or TTL that is further in the future than possible: dead
// connections are announced in time after the jump, and live ones stay.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type AnyState, type Client, record, silent } from '../conformance/stores.js';
import type { RedisServer } from '../support/redis.js';
import {
  type ServerClock,
  startClockedPair,
  startClockedRedis,
  whyNoServerClock,
} from '../support/server-clock.js';
import { eventually } from '../support/wait.js';
import { leavesOf } from './expiry.js';

const noClock = whyNoServerClock();
if (noClock !== undefined) console.log(`skipped: jumps of the server's clock (${noClock})`);

const TTL_MS = 1_500;
const SWEEP_MS = 200;
const HOUR_MS = 3_600_000;
/** The limit of the specification; a busy machine may be several times slower. */
const IN_TIME = { timeoutMs: 4 * 2 * (TTL_MS + SWEEP_MS) };

let server: RedisServer;
let clock: ServerClock;
let redis: Redis;

async function connect(options: object = {}): Promise<Client> {
  const client: Client = await PresenceClient.connect<AnyState>({
    url: server.url,
    ttlMs: TTL_MS,
    sweepIntervalMs: SWEEP_MS,
    logger: silent,
    ...options,
  });
  onTestFinished(() => client.close());
  return client;
}

/** Sends heartbeats for a connection until the test ends. */
function keepAlive(client: Client, connId: string): void {
  let ended = false;
  const heartbeats = (async () => {
    while (!ended) {
      await client.heartbeat({ connId });
      await new Promise((resolve) => setTimeout(resolve, TTL_MS / 10));
    }
  })();
  onTestFinished(async () => {
    ended = true;
    await heartbeats.catch(() => {});
  });
}

const join = (client: Client, connId: string, roomId: string) =>
  client.join({ roomId, userId: `of ${connId}`, connId, state: { big: 'x'.repeat(10) } });

describe.skipIf(noClock !== undefined)('6.8: the server’s clock', () => {
  beforeEach(async () => {
    ({ server, clock } = await startClockedRedis());
    onTestFinished(() => server[Symbol.asyncDispose]());
    redis = await server.client();
  });

  const forms = [
    { layout: 'v1', expiry: 'sweep', stateStorage: 'inline' },
    // A key's TTL follows the clock too, so in this mode the sweep finds the connections.
    { layout: 'v1', expiry: 'notifications', stateStorage: 'separate', fallbackSweepMs: SWEEP_MS },
    { layout: 'slotted', expiry: 'sweep', stateStorage: 'inline' },
    { layout: 'slotted', expiry: 'both', stateStorage: 'separate' },
  ] as const;

  test.each(forms)(
    'an hour back, %o: dead connections are announced once, live ones stay',
    async (form) => {
      const client = await connect(form);
      const recorder = await record(client);
      await client.startReaper();
      // Rooms in which all connections are dead, and one with a live and a dead connection.
      for (const [connId, roomId] of [
        ['dead-1', 'r1'],
        ['dead-2', 'r2'],
        ['dead-3', 'r2'],
        ['hidden', 'r3'],
        ['alive', 'r3'],
      ] as const) {
        await join(client, connId, roomId);
      }
      clock.set(-HOUR_MS);
      keepAlive(client, 'alive');
      await eventually(async () => {
        const left = leavesOf(await recorder.settled()).map(({ connId }) => connId);
        expect(left.sort()).toEqual(['dead-1', 'dead-2', 'dead-3', 'hidden']);
      }, IN_TIME);
      // A second full round announces no connection twice, and the live one stays.
      await join(client, 'later', 'r1');
      await eventually(async () => {
        const left = leavesOf(await recorder.settled()).map(({ connId }) => connId);
        expect(left.sort()).toEqual(['dead-1', 'dead-2', 'dead-3', 'hidden', 'later']);
      }, IN_TIME);
      expect(await client.heartbeat({ connId: 'alive' })).toMatchObject({ changed: false });
    },
  );

  test.each(['v1', 'slotted'] as const)(
    'an hour back, %s: reapOnce finds dead connections',
    async (layout) => {
      const client = await connect({ layout });
      await join(client, 'dead', 'r');
      clock.set(-HOUR_MS);
      await eventually(async () => expect((await client.reapOnce()).expired).toBe(1), IN_TIME);
      expect(await redis.dbsize()).toBe(0);
    },
  );

  test.each(['v1', 'slotted'] as const)(
    'an hour ahead, %s: connections with a timely heartbeat join again; the others are announced once',
    async (layout) => {
      const client = await connect({ layout });
      const recorder = await record(client);
      await client.startReaper();
      await join(client, 'a', 'r');
      await join(client, 'b', 'r');
      clock.set(HOUR_MS);
      await eventually(async () => {
        const left = leavesOf(await recorder.settled()).map(({ connId }) => connId);
        expect(left.sort()).toEqual(['a', 'b']);
      }, IN_TIME);
      await join(client, 'a', 'r');
      keepAlive(client, 'a');
      await expect(client.fetchRoomSnapshot('r')).resolves.toMatchObject([{ connId: 'a' }]);
    },
  );

  test.each(['v1', 'slotted'] as const)(
    'a failover to a replica whose clock is 60 s behind, %s: dead connections are announced once, live ones stay',
    async (layout) => {
      const pair = await startClockedPair(server, -60_000);
      onTestFinished(() => pair[Symbol.asyncDispose]());
      const client = await connect({ url: pair.url, layout });
      await join(client, 'dead', 'r');
      await join(client, 'alive', 'r');
      await pair.failOver(redis);
      const recorder = await record(client);
      await client.startReaper();
      keepAlive(client, 'alive');
      await eventually(async () => {
        const left = leavesOf(await recorder.settled()).map(({ connId }) => connId);
        expect(left).toEqual(['dead']);
      }, IN_TIME);
      expect(await client.heartbeat({ connId: 'alive' })).toMatchObject({ changed: false });
    },
  );

  test('a legacy node whose clock is an hour ahead: its dead connection is announced, its live one stays', async () => {
    const client = await connect();
    const recorder = await record(client);
    await client.startReaper();
    const write = async (connId: string) => {
      const now = Date.now() + HOUR_MS;
      const hash = {
        conn_id: connId,
        user_id: 'u',
        room_id: 'r',
        last_seen_ms: now,
        epoch: now,
        state: '{}',
      };
      await redis
        .multi()
        .sadd('prs:{room:r}:members', 'u')
        .sadd('prs:{room:r}:conns', connId)
        .hset(`prs:conn:${connId}`, hash)
        .pexpire(`prs:conn:${connId}`, TTL_MS)
        .zadd('prs:{room:r}:last_seen', now, connId)
        .hset('prs:{room:r}:conn_meta', connId, JSON.stringify({ userId: 'u', epoch: now }))
        .sadd('prs:user:u:conns', connId)
        .sadd('prs:active_rooms', 'r')
        .exec();
    };
    await write('dead');
    await write('alive');
    const heartbeat = setInterval(async () => {
      const now = Date.now() + HOUR_MS;
      await redis.zadd('prs:{room:r}:last_seen', now, 'alive');
      await redis.hset('prs:conn:alive', 'last_seen_ms', now);
      await redis.pexpire('prs:conn:alive', TTL_MS);
    }, TTL_MS / 10);
    onTestFinished(() => clearInterval(heartbeat));
    await eventually(async () => {
      const left = leavesOf(await recorder.settled()).map(({ connId }) => connId);
      expect(left).toEqual(['dead']);
    }, IN_TIME);
    await client.reapOnce();
    expect(leavesOf(await recorder.settled())).toHaveLength(1);
  });
});
