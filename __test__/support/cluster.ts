// Real Redis Clusters for tests: three masters, each with a replica, on free ports of the loopback
// interface. They end with the test's process.
import { rmSync } from 'node:fs';
import path from 'node:path';
import type { Redis } from 'ioredis';
import { started } from './process.js';
import { freePort, type RedisServer, type RedisServerOptions, startRedis } from './redis.js';
import { eventually } from './wait.js';

export const SLOTS = 16_384;

/** A node timeout for clusters that must not fail over on a busy machine: Redis's default. */
export const UNHURRIED_MS = 15_000;

export interface ClusterOptions {
  /** Default 3. */
  masters?: number;
  /** Replicas of each master. Default 1. */
  replicas?: number;
  /** The node timeout, after which a master counts as failed. Milliseconds, default 1000. */
  nodeTimeoutMs?: number;
  /** Options of every server. */
  server?: RedisServerOptions;
}

/** A server in the output of `CLUSTER NODES`. */
export interface NodeInfo {
  id: string;
  port: number;
  flags: string[];
  /** The id of its master, for a replica. */
  master: string | undefined;
  /** Its configuration epoch. */
  epoch: number;
  /** Whether the server that was asked has a connection to it. Messages to others are lost. */
  linked: boolean;
  slots: [number, number][];
}

export function startCluster(options: ClusterOptions = {}): Promise<RedisCluster> {
  return started(new RedisCluster(options));
}

export class RedisCluster implements AsyncDisposable {
  readonly servers: RedisServer[] = [];
  readonly #options: Required<ClusterOptions>;
  readonly #clients = new Map<RedisServer, Redis>();

  /** Only {@link startCluster} creates clusters. */
  constructor(options: ClusterOptions) {
    this.#options = { masters: 3, replicas: 1, nodeTimeoutMs: 1000, server: {}, ...options };
  }

  /** A URL with all servers. */
  get url(): string {
    const hosts = this.servers.map((server) => `${server.host}:${server.port}`);
    return `redis-cluster://${hosts.join(',')}`;
  }

  async start(): Promise<void> {
    const { masters, replicas, nodeTimeoutMs, server } = this.#options;
    for (let i = 0; i < masters * (1 + replicas); i++) {
      const config = {
        ...server.config,
        'cluster-enabled': 'yes',
        'cluster-config-file': 'nodes.conf',
        'cluster-node-timeout': nodeTimeoutMs,
        'cluster-port': await freePort(),
        // A replica that was disconnected for a while may still take over: tests fail over often.
        'cluster-replica-validity-factor': 0,
        'repl-diskless-sync-delay': 0,
        'repl-ping-replica-period': 1,
      };
      this.servers.push(await startRedis({ ...server, config }));
    }
    await this.#form();
  }

  /**
   * Ends all servers and creates a new cluster at the same addresses: empty, with other node ids.
   * Each master has the slots of its predecessor.
   */
  async rebuild(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.kill()));
    for (const server of this.servers) {
      rmSync(path.join(server.folder, 'data', 'nodes.conf'));
      await server.start();
    }
    await this.#form(1);
  }

  /** `shift`: the number of places by which slots are assigned to later masters. */
  async #form(shift = 0): Promise<void> {
    const { masters, replicas } = this.#options;
    const count = masters * (1 + replicas);
    const ports = await Promise.all(this.servers.map((one) => this.#busPort(one)));
    const first = await this.on(this.servers[0] as RedisServer);
    for (const [i, one] of this.servers.entries()) {
      const client = await this.on(one);
      await client.call('CLUSTER', 'SET-CONFIG-EPOCH', i + 1);
      if (i < masters) {
        const at = (i + masters - shift) % masters;
        const [from, to] = [(SLOTS * at) / masters, (SLOTS * (at + 1)) / masters].map(Math.floor);
        await client.call('CLUSTER', 'ADDSLOTSRANGE', from as number, (to as number) - 1);
      }
      if (i > 0) await first.call('CLUSTER', 'MEET', one.host, one.port, ports[i] as string);
    }
    await eventually(
      async () => {
        for (const one of this.servers) {
          const nodes = await this.nodes(one);
          if (nodes.length < count || nodes.some((node) => node.flags.includes('handshake'))) {
            return false;
          }
        }
        return true;
      },
      { timeoutMs: 15_000 },
    );
    for (let i = masters; i < count; i++) {
      const master = await this.on(this.servers[i % masters] as RedisServer);
      const id = await master.call('CLUSTER', 'MYID');
      await (await this.on(this.servers[i] as RedisServer)).call('CLUSTER', 'REPLICATE', `${id}`);
    }
    await this.settled();
  }

  /**
   * Resolves when every running server sees a complete cluster and is connected to every other, and
   * every replica follows its master.
   */
  async settled(timeoutMs = 20_000): Promise<void> {
    const { masters, replicas } = this.#options;
    await eventually(
      async () => {
        const ports = this.servers.filter((one) => one.running).map((one) => one.port);
        for (const server of this.servers.filter((one) => one.running)) {
          const client = await this.on(server);
          const info = `${await client.call('CLUSTER', 'INFO')}`;
          if (!info.includes('cluster_state:ok')) throw new Error(`port ${server.port}: ${info}`);
          const nodes = await this.nodes(server);
          const alive = nodes.filter((node) => !node.flags.some((flag) => /fail/.test(flag)));
          // A server that is not connected to another yet does not pass on what is published.
          const apart = alive.find((node) => ports.includes(node.port) && !node.linked);
          if (apart) throw new Error(`port ${server.port} is not connected to ${apart.port}`);
          const withSlots = alive.filter((node) => node.slots.length > 0);
          if (withSlots.length < masters) throw new Error('a master lacks');
          if (ports.length === masters * (1 + replicas) && alive.length !== ports.length) {
            throw new Error(`port ${server.port} sees ${alive.length} of ${ports.length}`);
          }
          const replication = await client.info('replication');
          if (replication.includes('role:slave') && !replication.includes('link_status:up')) {
            throw new Error(`port ${server.port} does not follow its master yet`);
          }
        }
      },
      { timeoutMs, intervalMs: 50 },
    );
  }

  /** A client of one server, with all permissions. */
  async on(server: RedisServer): Promise<Redis> {
    const known = this.#clients.get(server);
    if (known?.status === 'ready') return known;
    const client = await server.client();
    this.#clients.set(server, client);
    return client;
  }

  /** All servers, from the view of one of them. */
  async nodes(seenBy?: RedisServer): Promise<NodeInfo[]> {
    const server = seenBy ?? this.servers.find((one) => one.running);
    if (!server) throw new Error('no server is running');
    const text = `${await (await this.on(server)).call('CLUSTER', 'NODES')}`;
    return text
      .trim()
      .split('\n')
      .map((line) => {
        const [id = '', address = '', flags = '', master = '-', , , epoch, link, ...slots] =
          line.split(' ');
        return {
          id,
          port: Number(/:(\d+)@/.exec(address)?.[1]),
          flags: flags.split(','),
          master: master === '-' ? undefined : master,
          epoch: Number(epoch),
          linked: link === 'connected',
          slots: slots
            .filter((range) => !range.startsWith('['))
            .map((range) => {
              const [from, to = from] = range.split('-').map(Number);
              return [from, to] as [number, number];
            }),
        };
      });
  }

  /** The servers that have slots now, in the order of their first slot. */
  async masters(seenBy?: RedisServer): Promise<RedisServer[]> {
    const nodes = await this.nodes(seenBy);
    return nodes
      .filter((node) => node.slots.length > 0 && !node.flags.includes('fail'))
      .sort((a, b) => (a.slots[0]?.[0] ?? 0) - (b.slots[0]?.[0] ?? 0))
      .map((node) => this.#byPort(node.port));
  }

  /** The replicas of a master. */
  async replicasOf(master: RedisServer): Promise<RedisServer[]> {
    const nodes = await this.nodes(master);
    const id = nodes.find((node) => node.port === master.port)?.id;
    return nodes
      .filter((node) => node.master === id && !node.flags.some((flag) => /fail/.test(flag)))
      .map((node) => this.#byPort(node.port));
  }

  /** The master of a key's slot. */
  async ownerOf(key: string): Promise<RedisServer> {
    const any = this.servers.find((one) => one.running) as RedisServer;
    const slot = Number(await (await this.on(any)).call('CLUSTER', 'KEYSLOT', key));
    const nodes = await this.nodes(any);
    const owner = nodes.find((node) => node.slots.some(([a, b]) => a <= slot && slot <= b));
    return this.#byPort(owner?.port ?? 0);
  }

  /** Keys on all masters. */
  async dbsize(): Promise<number> {
    const sizes = (await this.masters()).map(async (one) => (await this.on(one)).dbsize());
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  }

  /** All keys. */
  async keys(): Promise<string[]> {
    const keys = (await this.masters()).map(async (one) => (await this.on(one)).keys('*'));
    return (await Promise.all(keys)).flat().sort();
  }

  async flush(): Promise<void> {
    await Promise.all((await this.masters()).map(async (one) => (await this.on(one)).flushall()));
  }

  /** Moves a slot to another master, including its keys, like `redis-cli --cluster reshard`. */
  async moveSlot(slot: number, from: RedisServer, to: RedisServer, pauseMs = 0): Promise<void> {
    const [source, target] = [await this.on(from), await this.on(to)];
    const [fromId, toId] = [
      await source.call('CLUSTER', 'MYID'),
      await target.call('CLUSTER', 'MYID'),
    ];
    await target.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', `${fromId}`);
    await source.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', `${toId}`);
    for (;;) {
      const keys = (await source.call('CLUSTER', 'GETKEYSINSLOT', slot, 5)) as string[];
      if (keys.length === 0) break;
      await source.call('MIGRATE', to.host, to.port, '', 0, 5000, 'KEYS', ...keys);
      if (pauseMs) await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
    // The target first: it must know before the source gives up the slot.
    await target.call('CLUSTER', 'SETSLOT', slot, 'NODE', `${toId}`);
    await source.call('CLUSTER', 'SETSLOT', slot, 'NODE', `${toId}`);
    await this.agreed();
  }

  /**
   * Resolves when all masters have the same view. No other slot may move before that: a target that
   * does not know the source's newest epoch would not take a newer one. The source's older claim
   * would then win, and in the end each would name the other as the owner of the slot.
   */
  async agreed(): Promise<void> {
    await eventually(async () => {
      const views = (await this.masters()).map(async (one) => {
        const nodes = (await this.nodes(one)).filter(({ slots }) => slots.length > 0);
        return JSON.stringify(nodes.map(({ id, epoch, slots }) => [id, epoch, slots]).sort());
      });
      return new Set(await Promise.all(views)).size === 1;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients.values()) client.disconnect();
    await Promise.all(this.servers.map((server) => server[Symbol.asyncDispose]()));
  }

  async #busPort(server: RedisServer): Promise<string> {
    const answer = await (await this.on(server)).config('GET', 'cluster-port');
    return (answer as string[])[1] ?? '';
  }

  #byPort(port: number): RedisServer {
    const server = this.servers.find((one) => one.port === port);
    if (!server) throw new Error(`no server has port ${port}`);
    return server;
  }
}

let shared: Promise<RedisCluster> | undefined;

/** The cluster that the tests of one file share: three masters, without replicas. */
export function sharedCluster(): Promise<RedisCluster> {
  shared ??= startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
  return shared;
}
