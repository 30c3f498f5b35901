// A small fleet under load on one real server, with faults in between: what every fault test is made
// of. "Converged" is checked as issue 8 defines it.
import type { Redis } from 'ioredis';
import { type ClientOptions, PresenceClient } from 'rollcall';
import { expect, onTestFinished } from 'vitest';
import { checkIndices, readIndices } from '../redis/indices.js';
import { type FaultProxy, startProxy } from '../support/proxy.js';
import { createRandom, type Random } from '../support/random.js';
import { type RedisServer, type RedisServerOptions, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { Ledger } from './ledger.js';
import { follow, line, type View } from './view.js';

// biome-ignore lint/suspicious/noExplicitAny: states of any kind
export type Client = PresenceClient<any>;

/** What calls may end with although nothing is wrong. */
const CODES = ['CONNECTION_NOT_FOUND', 'STALE_EPOCH', 'LOCK_UNAVAILABLE', 'LOCK_LOST'];

/** For who looks at what is: that a busy machine answers late is no fault. */
const PATIENT = { commandTimeoutMs: 30_000 };

export const ROOMS = ['r0', 'r1', 'r2', 'r3'] as const;
/** Outlives any test. */
const TTL_MS = 600_000;

export interface WorldOptions {
  server?: RedisServerOptions;
  /** How many nodes; each is a client with a view of all rooms, behind the proxy. */
  nodes?: number;
  client?: ClientOptions;
  /** Codes that calls may end with, beside those of trouble. */
  codes?: string[];
}

export interface World {
  server: RedisServer;
  proxy: FaultProxy;
  nodes: Client[];
  /** One of them; the first unless told. */
  node(i?: number): Client;
  views: View[];
  ledger: Ledger;
  random: Random;
  /** By no proxy: for looking at what is. */
  healthy: Client;
  redis: Redis;
  /** Begins to join, beat, patch and leave, and goes on until it is told to stop. */
  load(options?: LoadOptions): Load;
  converged(options?: { withinMs?: number; missing?: number }): Promise<void>;
  /** Every index agrees with every other and with the hashes, right now. */
  agrees(): Promise<void>;
  /** Everybody leaves, and nothing is left. */
  emptied(options?: { channels?: boolean }): Promise<void>;
  /** After a restart of the server. */
  listenAgain(): Promise<void>;
  /** Everything is looked for on another server from now on. */
  moveTo(server: RedisServer): Promise<void>;
}

interface LoadOptions {
  /** Connections that each node drives, one call at a time each. */
  conns?: number;
  /** Between two calls of one connection. */
  pauseMs?: number;
}

export interface Load {
  /** Resolves when the last call has ended. */
  stop(): Promise<void>;
}

/** Opens a client that is closed with the test. */
export async function connect(options: ClientOptions): Promise<Client> {
  const client: Client = await PresenceClient.connect({ ttlMs: TTL_MS, logger: {}, ...options });
  onTestFinished(() => client.close());
  return client;
}

let worlds = 0;

/** Everything in it ends with the test. */
export async function startWorld(options: WorldOptions = {}): Promise<World> {
  const server = await startRedis({
    ...options.server,
    // Who looks at what is must not be cut off with those who are tested.
    users: { ...options.server?.users, looker: 'on >looker ~* &* +@all' },
  });
  onTestFinished(() => server[Symbol.asyncDispose]());
  const proxy = await startProxy(server.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const random = createRandom(++worlds);
  const ledger = new Ledger(...CODES, ...(options.codes ?? []));
  onTestFinished(() => ledger[Symbol.asyncDispose]());
  await ledger.listen(server);
  const healthy = await connect({
    url: `redis+unix://${server.socketPath}?user=looker&pass=looker`,
    limits: PATIENT,
  });
  const nodes: Client[] = [];
  const views: View[] = [];
  for (let i = 0; i < (options.nodes ?? 2); i++) {
    const node = await connect({ url: proxy.url, ...options.client });
    nodes.push(node);
    views.push(await follow(node, ROOMS));
  }
  const world: World = {
    server,
    proxy,
    nodes,
    node: (i = 0) => {
      const node = nodes[i];
      if (!node) throw new Error(`there is no node ${i}`);
      return node;
    },
    views,
    ledger,
    random,
    healthy,
    redis: await server.client(),
    load: (how) => startLoad(world, how),
    converged: (how) => converged(world, how),
    agrees: async () => void checkIndices(await readIndices(world.redis)),
    emptied: (how) => emptied(world, how),
    listenAgain: () => world.moveTo(world.server),
    moveTo: async (to) => {
      if (to !== world.server) world.healthy = await connect({ url: to.url, limits: PATIENT });
      world.server = to;
      world.redis = await to.client();
      await ledger.listen(to);
    },
  };
  return world;
}

let marks = 0;

function startLoad(world: World, { conns = 10, pauseMs = 1 }: LoadOptions = {}): Load {
  const { nodes, ledger, random } = world;
  let stopped = false;
  const drive = async (node: Client, connId: string): Promise<void> => {
    while (!stopped) {
      const mark = String(++marks);
      const roomId = random.pick(ROOMS);
      const dice = random.next();
      if (dice < 0.25) {
        const state = { mark, text: 'x'.repeat(random.int(0, 200)) };
        const join = { roomId, userId: `u${random.int(0, 7)}`, connId, state };
        const snapshot = random.chance(0.2);
        await ledger.follow(`join ${connId}`, node.join({ ...join, snapshot }), `join ${mark}`);
      } else if (dice < 0.55) {
        await ledger.follow(`heartbeat ${connId}`, node.heartbeat({ connId }));
      } else if (dice < 0.85) {
        const beat = node.heartbeat({ connId, patchState: { mark } });
        await ledger.follow(`patch ${connId}`, beat, `update ${mark}`);
      } else if (dice < 0.93) {
        await ledger.follow(`leave ${connId}`, node.leave(connId));
      } else {
        await ledger.follow(`snapshot ${roomId}`, node.fetchRoomSnapshot(roomId));
      }
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  };
  const drivers = nodes.flatMap((node, n) =>
    Array.from({ length: conns }, (_, i) => drive(node, `n${n}-${i}`)),
  );
  return {
    stop: async () => {
      stopped = true;
      await Promise.all(drivers);
    },
  };
}

async function truth({ healthy }: World): Promise<string[]> {
  const lines: string[] = [];
  for (const room of ROOMS) {
    for (const { connId, userId, epoch, state } of await healthy.fetchRoomSnapshot(room)) {
      lines.push(line(room, connId, userId, epoch, state));
    }
  }
  return lines.sort();
}

/** With no load on it. */
async function converged(
  world: World,
  { withinMs = 2000, missing = 0 }: { withinMs?: number; missing?: number } = {},
): Promise<void> {
  await eventually(
    async () => {
      const there = await truth(world);
      for (const view of world.views) expect(view.describe()).toEqual(there);
      await world.agrees();
      world.ledger.check({ missing });
    },
    { timeoutMs: withinMs, intervalMs: 20 },
  );
}

/** `channels`: there is metadata, or there were locks, which stay when everybody has gone. */
async function emptied({ healthy, redis }: World, { channels = false } = {}): Promise<void> {
  for (const room of ROOMS) {
    const there = await healthy.fetchRoomSnapshot(room);
    await Promise.all(there.map(({ connId }) => healthy.leave(connId)));
  }
  await eventually(async () => {
    await healthy.reapOnce();
    const left = (await redis.keys('*')).filter((key) => !channels || !/chan:|lock/.test(key));
    expect(left).toEqual([]);
  });
}
