// A master, its replicas and the sentinels that monitor them, all as real processes.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Redis } from 'ioredis';
import { locateRedis, NO_REDIS } from '../../scripts/lib/redis.mjs';
import { endWithProcess, started } from './process.js';
import { freePort, type RedisServer, startRedis } from './redis.js';
import { eventually } from './wait.js';

export interface SentinelOptions {
  /** Redis servers; the first begins as the master. Default 2. */
  servers?: number;
  /** Default 3. */
  sentinels?: number;
  /** Password of the Redis servers. */
  password?: string;
  /** Password of the sentinels. */
  sentinelPassword?: string;
  /** TLS for all of them. */
  tls?: boolean;
}

/** The name under which the sentinels know the master. */
export const MASTER = 'the master';

interface Sentinel {
  port: number;
  process: ChildProcess;
}

export function startSentinels(options: SentinelOptions = {}): Promise<SentinelGroup> {
  return started(new SentinelGroup(options));
}

export class SentinelGroup implements AsyncDisposable {
  readonly servers: RedisServer[] = [];
  readonly sentinels: Sentinel[] = [];
  readonly #options: SentinelOptions;
  readonly #clients: Redis[] = [];
  #first: Redis | undefined;

  constructor(options: SentinelOptions) {
    this.#options = options;
  }

  /** `redis-sentinel://…` with all sentinels. */
  get url(): string {
    const { password } = this.#options;
    const user = password === undefined ? '' : `:${encodeURIComponent(password)}@`;
    const hosts = this.sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
    return `redis-sentinel://${user}${hosts}/${encodeURIComponent(MASTER)}`;
  }

  async start(): Promise<void> {
    const { servers = 2, sentinels = 3, password, tls = false } = this.#options;
    const replication = tls ? { 'tls-replication': 'yes' } : {};
    for (let i = 0; i < servers; i++) {
      const master = this.servers[0];
      this.servers.push(
        await startRedis({
          tls,
          ...(password === undefined ? {} : { requirepass: password }),
          config: {
            ...(master ? { replicaof: `${master.host} ${master.port}` } : {}),
            ...(password === undefined ? {} : { masterauth: JSON.stringify(password) }),
            'repl-diskless-sync-delay': 0,
            ...replication,
          },
        }),
      );
    }
    const admin = await this.#master.client();
    await eventually(
      async () => {
        const info = await admin.info('replication');
        expectMatch(info, new RegExp(`connected_slaves:${servers - 1}`));
        if (servers > 1) expectMatch(info, /state=online/);
      },
      { timeoutMs: 15_000 },
    );
    for (let i = 0; i < sentinels; i++) this.sentinels.push(await this.#startSentinel(i));
    // They find each other, and the replicas, through the master.
    for (const { port } of this.sentinels) {
      const sentinel = await this.ask(port);
      await eventually(
        async () => {
          expectMatch(String(await sentinel.call('SENTINEL', 'CKQUORUM', MASTER)), /^OK/);
          const [master] = (await sentinel.call('SENTINEL', 'MASTERS')) as string[][];
          const fields = master ?? [];
          const at = (name: string) => Number(fields[fields.indexOf(name) + 1]);
          expectMatch(`${at('num-slaves')} replicas`, new RegExp(`^${servers - 1} `));
          expectMatch(`${at('num-other-sentinels')} others`, new RegExp(`^${sentinels - 1} `));
        },
        { timeoutMs: 20_000, intervalMs: 50 },
      );
    }
  }

  /** A client of a sentinel. */
  async ask(port = this.sentinels[0]?.port ?? 0): Promise<Redis> {
    const { sentinelPassword, tls } = this.#options;
    const client = new Redis({
      port,
      ...(sentinelPassword === undefined ? {} : { password: sentinelPassword }),
      ...(tls ? { tls: { ca: this.#master.tls?.ca ?? '' } } : {}),
      retryStrategy: () => 50,
      maxRetriesPerRequest: 100,
    });
    client.on('error', () => {});
    this.#clients.push(client);
    return client;
  }

  /** The address of the master, from the (first) sentinel. */
  async master(): Promise<RedisServer> {
    this.#first ??= await this.ask();
    const found = await this.#first.call('SENTINEL', 'get-master-addr-by-name', MASTER);
    const port = Number((found as string[])[1]);
    const server = this.servers.find((one) => one.port === port);
    if (!server) throw new Error(`the sentinels name ${found}`);
    return server;
  }

  /** Resolves when there is a replica that the sentinels would promote. */
  async ready(): Promise<void> {
    this.#first ??= await this.ask();
    const first = this.#first;
    await eventually(
      async () => {
        const replicas = (await first.call('SENTINEL', 'REPLICAS', MASTER)) as string[][];
        const good = replicas.filter((replica) => {
          const of = (name: string) => replica[replica.indexOf(name) + 1];
          return of('flags') === 'slave' && of('master-link-status') === 'ok';
        });
        return good.length > 0;
      },
      { timeoutMs: 40_000, intervalMs: 50 },
    );
  }

  /** Lets the sentinels promote another server. */
  async failover(): Promise<void> {
    this.#first ??= await this.ask();
    const first = this.#first;
    await eventually(() => first.call('SENTINEL', 'FAILOVER', MASTER), { timeoutMs: 20_000 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.disconnect();
    for (const { process } of this.sentinels) {
      const ended = once(process, 'close');
      if (process.exitCode === null && process.signalCode === null) {
        process.kill('SIGKILL');
        await ended;
      }
    }
    // Their files are in the folder of the first server.
    for (const server of this.servers.toReversed()) await server[Symbol.asyncDispose]();
  }

  get #master(): RedisServer {
    const [master] = this.servers;
    if (!master) throw new Error('there is no server');
    return master;
  }

  async #startSentinel(number: number): Promise<Sentinel> {
    const program = locateRedis();
    if (program === undefined) throw new Error(NO_REDIS);
    const { password, sentinelPassword, tls, sentinels = 3 } = this.#options;
    const master = this.#master;
    const folder = path.join(master.folder, `sentinel-${number}`);
    mkdirSync(folder);
    const port = await freePort();
    const name = JSON.stringify(MASTER);
    const file = (base: string) => JSON.stringify(path.join(master.folder, base));
    const lines = [
      `port ${tls ? 0 : port}`,
      'bind 127.0.0.1',
      `dir ${JSON.stringify(folder)}`,
      `sentinel monitor ${name} ${master.host} ${master.port} ${Math.floor(sentinels / 2) + 1}`,
      `sentinel down-after-milliseconds ${name} 400`,
      `sentinel failover-timeout ${name} 3000`,
    ];
    if (password !== undefined) {
      lines.push(`sentinel auth-pass ${name} ${JSON.stringify(password)}`);
    }
    if (sentinelPassword !== undefined) {
      lines.push(`requirepass ${JSON.stringify(sentinelPassword)}`);
    }
    if (tls) {
      lines.push(
        `tls-port ${port}`,
        `tls-ca-cert-file ${file('ca.pem')}`,
        `tls-cert-file ${file('cert.pem')}`,
        `tls-key-file ${file('key.pem')}`,
        'tls-auth-clients no',
        'tls-replication yes',
      );
    }
    const config = path.join(folder, 'sentinel.conf');
    writeFileSync(config, `${lines.join('\n')}\n`);
    const child = spawn(program, [config, '--sentinel'], {
      cwd: folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    endWithProcess(child);
    child.stdout.resume();
    child.stderr.resume();
    return { port, process: child };
  }
}

function expectMatch(text: string, pattern: RegExp): void {
  if (!pattern.test(text)) throw new Error(`${text} is not ${pattern}`);
}
