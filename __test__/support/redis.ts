// Real Redis servers for tests: each with a free port, a folder of its own and nothing of the
// machine's configuration. No other server is ever talked to.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Redis } from 'ioredis';
import { locateRedis, NO_REDIS } from '../../scripts/lib/redis.mjs';
import { endWithProcess, removeWithProcess, started } from './process.js';
import { type Certificates, certificates } from './tls.js';

export interface RedisServerOptions {
  /** Password of the default user. */
  requirepass?: string;
  /** ACL rules of further users by name, or of `default`: `{ alice: 'on >secret ~* &* +@all' }`. */
  users?: Record<string, string>;
  /** Serves TLS only on its port, with a certificate by `server.tls.ca`, or with the given one. */
  tls?: boolean | Certificates;
  /** Writes every change to disk, so that data outlive `restart()` and `kill()`. */
  appendonly?: boolean;
  /** The `notify-keyspace-events` flags. */
  notifyKeyspaceEvents?: string;
  /** Further lines of configuration. */
  config?: Record<string, string | number>;
  /** Added to the server's environment. */
  env?: Record<string, string>;
  /** Another program than the machine's `redis-server`. */
  program?: string;
}

/** The user as whom the harness itself connects, whatever the test does to the default user. */
const ADMIN = { username: 'rollcall-harness', password: 'rollcall-harness' };
const STARTUP_TIMEOUT_MS = 10_000;
const PORT_ATTEMPTS = 5;

/** Starts a server; it answers when this resolves, and ends with the test's process at the latest. */
export async function startRedis(options: RedisServerOptions = {}): Promise<RedisServer> {
  const { tls } = options;
  return started(new RedisServer(options, tls === true ? await certificates() : tls || undefined));
}

export class RedisServer implements AsyncDisposable {
  readonly host = '127.0.0.1';
  /** Stays the same over `restart()`. */
  port = 0;
  /** The server's folder: data, socket, certificates. */
  readonly folder: string;
  /** The path of its unix socket; there always is one. */
  readonly socketPath: string;
  /** In PEM; undefined without TLS. */
  readonly tls: { ca: string } | undefined;

  readonly #options: RedisServerOptions;
  readonly #removeFolder: () => void;
  readonly #clients = new Set<Redis>();
  #process: ChildProcess | undefined;
  #log = '';
  #admin: Redis | undefined;

  /** Only {@link startRedis} makes one. */
  constructor(options: RedisServerOptions, tls?: { ca: string; cert: string; key: string }) {
    this.#options = options;
    this.folder = mkdtempSync(path.join(shortTmpdir(), 'rollcall-test-'));
    this.#removeFolder = removeWithProcess(this.folder);
    this.socketPath = path.join(this.folder, 'redis.sock');
    mkdirSync(path.join(this.folder, 'data'));
    if (tls) {
      this.tls = { ca: tls.ca };
      writeFileSync(path.join(this.folder, 'ca.pem'), tls.ca);
      writeFileSync(path.join(this.folder, 'cert.pem'), tls.cert);
      writeFileSync(path.join(this.folder, 'key.pem'), tls.key, { mode: 0o600 });
    }
  }

  get running(): boolean {
    return this.#process !== undefined;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** The URL of the default user; see {@link urlFor} for another. */
  get url(): string {
    return this.urlFor();
  }

  /** A URL with the given credentials and database; the default user's password unless told. */
  urlFor({ username = '', password = this.#options.requirepass ?? '', db = 0 } = {}): string {
    const credentials =
      username || password
        ? `${encodeURIComponent(username)}:${encodeURIComponent(password)}@`
        : '';
    const scheme = this.tls ? 'rediss' : 'redis';
    return `${scheme}://${credentials}${this.host}:${this.port}${db ? `/${db}` : ''}`;
  }

  /** Starts it, or starts it again, on the same port and with the same folder. */
  async start(): Promise<void> {
    if (this.#process) throw new Error('the server is running');
    const portIsOurs = this.port !== 0;
    for (let attempt = 1; ; attempt++) {
      if (!portIsOurs) this.port = await freePort();
      try {
        await this.#launch();
        return;
      } catch (error) {
        // Between our choice of the port and the server's start, another process may have got it.
        const taken = /address already in use/i.test(this.#log);
        if (!taken || portIsOurs || attempt === PORT_ATTEMPTS) throw error;
      }
    }
  }

  /** Ends it in an orderly way; with `appendonly`, everything is on disk. */
  async stop(): Promise<void> {
    this.resume();
    await this.#end('SIGTERM');
  }

  /** Ends it at once, as a crash would. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Stops its process where it is: connections stay open, nothing answers. */
  pause(): void {
    this.#process?.kill('SIGSTOP');
  }

  resume(): void {
    this.#process?.kill('SIGCONT');
  }

  /**
   * A connected client for looking at and preparing data. Closed with the server; it comes with
   * all rights, by the unix socket.
   */
  async client(db = 0): Promise<Redis> {
    const client = new Redis({
      path: this.socketPath,
      ...ADMIN,
      db,
      lazyConnect: true,
      retryStrategy: () => null,
    });
    this.#clients.add(client);
    client.on('end', () => this.#clients.delete(client));
    // Whoever uses the client gets the error of the command; there is nothing to do here.
    client.on('error', () => {});
    await client.connect();
    return client;
  }

  /** Keys in a database. */
  async dbsize(db = 0): Promise<number> {
    return this.#on(db, (client) => client.dbsize());
  }

  /** Empties one database, or all of them. */
  async flush(db?: number): Promise<void> {
    await this.#on(db ?? 0, (client) => (db === undefined ? client.flushall() : client.flushdb()));
  }

  /** What the server has logged since its last start. */
  get log(): string {
    return this.#log;
  }

  /** Ends the server and removes its folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    this.#removeFolder();
  }

  async #on<T>(db: number, use: (client: Redis) => Promise<T>): Promise<T> {
    // One connection for all of the harness's own calls; a test may open many databases.
    if (this.#admin?.status !== 'ready') this.#admin = await this.client();
    const admin = this.#admin;
    const [, result] = await Promise.all([admin.select(db), use(admin)]);
    return result;
  }

  async #launch(): Promise<void> {
    const program = this.#options.program ?? locateRedis();
    if (program === undefined) throw new Error(NO_REDIS);
    this.#log = '';
    const configFile = path.join(this.folder, 'redis.conf');
    writeFileSync(configFile, this.#config());
    const child = spawn(program, [configFile], {
      // The test runner recognises servers that were left behind by their working directory.
      cwd: this.folder,
      env: { ...process.env, ...this.#options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    endWithProcess(child);
    child.stdout.on('data', (text) => {
      this.#log += text;
    });
    child.stderr.on('data', (text) => {
      this.#log += text;
    });
    const ended = once(child, 'close').then(
      () => Promise.reject(new Error(`redis-server ended:\n${this.#log}`)),
      (error) => Promise.reject(new Error(`${program} could not be started`, { cause: error })),
    );
    this.#process = child;
    child.once('close', () => {
      if (this.#process === child) this.#process = undefined;
    });
    await Promise.race([this.#answers(), ended]);
  }

  /** Resolves when it has loaded its data and answers. */
  async #answers(): Promise<void> {
    const deadline = performance.now() + STARTUP_TIMEOUT_MS;
    const client = new Redis({
      path: this.socketPath,
      ...ADMIN,
      // Until the socket is there; ioredis itself waits while the server loads its data.
      retryStrategy: () => (performance.now() < deadline && this.running ? 5 : null),
      maxRetriesPerRequest: null,
    });
    client.on('error', () => {});
    try {
      await client.ping();
    } finally {
      client.disconnect();
    }
  }

  async #end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    for (const client of this.#clients) client.disconnect();
    const child = this.#process;
    if (!child) return;
    const closed = once(child, 'close');
    child.kill(signal);
    await closed;
  }

  #config(): string {
    const {
      requirepass,
      users = {},
      appendonly,
      notifyKeyspaceEvents,
      config = {},
    } = this.#options;
    const inFolder = (name: string) => JSON.stringify(path.join(this.folder, name));
    const lines: [string, string | number][] = [
      ['bind', this.host],
      ['port', this.tls ? 0 : this.port],
      ['unixsocket', inFolder('redis.sock')],
      ['unixsocketperm', '700'],
      ['dir', inFolder('data')],
      ['save', '""'],
      ['appendonly', appendonly ? 'yes' : 'no'],
      // Every change, at once: what a test has seen acknowledged is there after a kill.
      ['appendfsync', 'always'],
      ['databases', 16],
      ['daemonize', 'no'],
      // Redis 6 does not know it.
      ...(this.#options.program ? [] : [['enable-debug-command', 'local'] as [string, string]]),
      ['user', `${ADMIN.username} on >${ADMIN.password} ~* &* +@all`],
    ];
    if (this.tls) {
      lines.push(
        ['tls-port', this.port],
        ['tls-ca-cert-file', inFolder('ca.pem')],
        ['tls-cert-file', inFolder('cert.pem')],
        ['tls-key-file', inFolder('key.pem')],
        ['tls-auth-clients', 'no'],
      );
    }
    if (requirepass !== undefined) lines.push(['requirepass', JSON.stringify(requirepass)]);
    if (notifyKeyspaceEvents) lines.push(['notify-keyspace-events', notifyKeyspaceEvents]);
    for (const [name, rules] of Object.entries(users)) lines.push(['user', `${name} ${rules}`]);
    lines.push(...Object.entries(config));
    return lines.map(([name, value]) => `${name} ${value}\n`).join('');
  }
}

/** Paths of unix sockets are limited to about 100 bytes, which some temporary folders use up. */
function shortTmpdir(): string {
  const folder = tmpdir();
  return folder.length > 60 ? '/tmp' : folder;
}

export async function freePort(): Promise<number> {
  const probe = createServer();
  probe.listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const address = probe.address();
  const port = typeof address === 'object' && address ? address.port : 0;
  probe.close();
  await once(probe, 'close');
  // Where a machine's own Redis would be; a test must not be able to meet it.
  return port === 6379 ? freePort() : port;
}

let shared: Promise<RedisServer> | undefined;

/**
 * The server that the tests of one file share, with default options. It starts with the first
 * call and ends with the file: vitest runs each file in a process of its own.
 */
export function sharedRedis(): Promise<RedisServer> {
  shared ??= startRedis();
  return shared;
}

let nextDb = 0;

/** The next database of the shared server, emptied: for a suite that wants to be alone. */
export async function sharedDb(): Promise<{ server: RedisServer; db: number; url: string }> {
  const server = await sharedRedis();
  const db = 1 + (nextDb++ % 15);
  await server.flush(db);
  return { server, db, url: server.urlFor({ db }) };
}
