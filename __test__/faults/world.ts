// A small group of nodes under load on one real server, with a proxy for faults: the base of every
// fault test. `converged` checks that all nodes and Redis agree.
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

/** Codes that calls may end with without any fault. */
const CODES = ['CONNECTION_NOT_FOUND', 'STALE_EPOCH', 'LOCK_UNAVAILABLE', 'LOCK_LOST'];

/** For the client that checks: a late answer of a busy machine is not a fault. */
const PATIENT = { commandTimeoutMs: 30_000 };

export const ROOMS = ['r0', 'r1', 'r2', 'r3'] as const;
/** Outlives any test. */
const TTL_MS = 600_000;

export interface WorldOptions {
  server?: RedisServerOptions;
  /** The number of nodes; each is a client behind the proxy with a view of all rooms. */
  nodes?: number;
  client?: ClientOptions;
  /** Further codes that calls may end with, besides those of outages. */
  codes?: string[];
}

export interface World {
  server: RedisServer;
  proxy: FaultProxy;
  nodes: Client[];
  /** One of the nodes; by default the first. */
  node(i?: number): Client;
  views: View[];
  ledger: Ledger;
  random: Random;
  /** A client without a proxy, for checks. */
  healthy: Client;
  redis: Redis;
  /** Starts a load of joins, heartbeats, patches and leaves, which runs until it is stopped. */
  load(options?: LoadOptions): Load;
  converged(options?: { withinMs?: number; missing?: number }): Promise<void>;
  /** Every index agrees with every other and with the hashes at this moment. */
  agrees(): Promise<void>;
  /** All connections leave, and no keys are left. */
  emptied(options?: { channels?: boolean }): Promise<void>;
  /** Call it after a restart of the server. */
  listenAgain(): Promise<void>;
  /** Uses another server for all checks from now on. */
  moveTo(server: RedisServer): Promise<void>;
}

interface LoadOptions {
  /** The number of connections per node, with one call at a time each. */
  conns?: number;
  /** The pause between two calls of one connection. */
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

/** Starts a world; all of its parts end with the test. */
export async function startWorld(options: WorldOptions = {}): Promise<World> {
  const server = await startRedis({
    ...options.server,
    // The client for checks must not be disconnected together with the tested ones.
    users: { ...options.server?.users, observer: 'on >observer ~* &* +@all' },
  });
  onTestFinished(() => server[Symbol.asyncDispose]());
  const proxy = await startProxy(server.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  const random = createRandom(++worlds);
  const ledger = new Ledger(...CODES, ...(options.codes ?? []));
  onTestFinished(() => ledger[Symbol.asyncDispose]());
  await ledger.listen(server);
  const healthy = await connect({
    url: `redis+unix://${server.socketPath}?user=observer&pass=observer`,
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
        const heartbeat = node.heartbeat({ connId, patchState: { mark } });
        await ledger.follow(`patch ${connId}`, heartbeat, `update ${mark}`);
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

/** Call it without a load. */
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

/** `channels`: there are metadata or lock keys, which stay after all connections have left. */
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
