// Real Redis servers for tests: each with a free port, its own folder, and no configuration of the
// machine. Tests never connect to another server.
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
  /** Serves only TLS on its port, with a certificate of `server.tls.ca`, or with the given one. */
  tls?: boolean | Certificates;
  /** Writes every change to disk, so that data survive `restart()` and `kill()`. */
  appendonly?: boolean;
  /** The `notify-keyspace-events` flags. */
  notifyKeyspaceEvents?: string;
  /** Further lines of configuration. */
  config?: Record<string, string | number>;
  /** Added to the server's environment. */
  env?: Record<string, string>;
  /** A program other than the machine's `redis-server`. */
  program?: string;
}

/**
 * The user of the harness's own connections, independent of the test's changes to the default user.
 */
const ADMIN = { username: 'rollcall-harness', password: 'rollcall-harness' };
const STARTUP_TIMEOUT_MS = 10_000;
const PORT_ATTEMPTS = 5;

/**
 * Starts a server; it answers when this resolves, and ends at the latest with the test's process.
 */
export async function startRedis(options: RedisServerOptions = {}): Promise<RedisServer> {
  const { tls } = options;
  return started(new RedisServer(options, tls === true ? await certificates() : tls || undefined));
}

export class RedisServer implements AsyncDisposable {
  readonly host = '127.0.0.1';
  /** Unchanged by `restart()`. */
  port = 0;
  /** The server's folder: data, socket, certificates. */
  readonly folder: string;
  /** The path of its unix socket, which always exists. */
  readonly socketPath: string;
  /** In PEM; undefined without TLS. */
  readonly tls: { ca: string } | undefined;

  readonly #options: RedisServerOptions;
  readonly #removeFolder: () => void;
  readonly #clients = new Set<Redis>();
  #process: ChildProcess | undefined;
  #log = '';
  #admin: Redis | undefined;

  /** Only {@link startRedis} creates servers. */
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

  /**
   * A URL with the given credentials and database; by default, with the default user's password.
   */
  urlFor({ username = '', password = this.#options.requirepass ?? '', db = 0 } = {}): string {
    const credentials =
      username || password
        ? `${encodeURIComponent(username)}:${encodeURIComponent(password)}@`
        : '';
    const scheme = this.tls ? 'rediss' : 'redis';
    return `${scheme}://${credentials}${this.host}:${this.port}${db ? `/${db}` : ''}`;
  }

  /** Starts it, or restarts it, on the same port and with the same folder. */
  async start(): Promise<void> {
    if (this.#process) throw new Error('the server is running');
    const portIsOurs = this.port !== 0;
    for (let attempt = 1; ; attempt++) {
      if (!portIsOurs) this.port = await freePort();
      try {
        await this.#launch();
        return;
      } catch (error) {
        // Another process may have taken the port in the meantime.
        const taken = /address already in use/i.test(this.#log);
        if (!taken || portIsOurs || attempt === PORT_ATTEMPTS) throw error;
      }
    }
  }

  /** Shuts it down regularly; with `appendonly`, all data are on disk. */
  async stop(): Promise<void> {
    this.resume();
    await this.#end('SIGTERM');
  }

  /** Ends it at once, like a crash. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async restart(): Promise<void> {
    await this.stop();
    await this.start();
  }

  /** Stops its process (SIGSTOP): connections stay open, but get no answers. */
  pause(): void {
    this.#process?.kill('SIGSTOP');
  }

  resume(): void {
    this.#process?.kill('SIGCONT');
  }

  /**
   * A connected client for reading and preparing data. It is closed with the server, and uses the
   * unix socket with all permissions.
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
    // The caller gets the error of each command, so it needs no handling here.
    client.on('error', () => {});
    await client.connect();
    return client;
  }

  /** The number of keys in a database. */
  async dbsize(db = 0): Promise<number> {
    return this.#on(db, (client) => client.dbsize());
  }

  /** Empties one database, or all of them. */
  async flush(db?: number): Promise<void> {
    await this.#on(db ?? 0, (client) => (db === undefined ? client.flushall() : client.flushdb()));
  }

  /** The server's log since its last start. */
  get log(): string {
    return this.#log;
  }

  /** Ends the server and removes its folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    this.#removeFolder();
  }

  async #on<T>(db: number, use: (client: Redis) => Promise<T>): Promise<T> {
    // One connection for all of the harness's own calls, because a test may open many databases.
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
      // The test runner recognizes leftover servers by their working directory.
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

  /** Resolves when the server has loaded its data and answers. */
  async #answers(): Promise<void> {
    const deadline = performance.now() + STARTUP_TIMEOUT_MS;
    const client = new Redis({
      path: this.socketPath,
      ...ADMIN,
      // Waits for the socket; ioredis itself waits while the server loads its data.
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
      // Synchronously, so that every acknowledged change survives a kill.
      ['appendfsync', 'always'],
      ['databases', 16],
      ['daemonize', 'no'],
      // Redis 6 does not have this setting.
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

/**
 * Paths of unix sockets are limited to about 100 bytes, and some temporary folders are too long.
 */
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
  // The default port of a machine's own Redis; tests must never connect to it.
  return port === 6379 ? freePort() : port;
}

let shared: Promise<RedisServer> | undefined;

/**
 * The server that the tests of one file share, with default options. It starts with the first call
 * and ends with the file: vitest runs each file in a separate process.
 */
export function sharedRedis(): Promise<RedisServer> {
  shared ??= startRedis();
  return shared;
}

let nextDb = 0;

/** The next database of the shared server, emptied: for a suite that needs its own database. */
export async function sharedDb(): Promise<{ server: RedisServer; db: number; url: string }> {
  const server = await sharedRedis();
  const db = 1 + (nextDb++ % 15);
  await server.flush(db);
  return { server, db, url: server.urlFor({ db }) };
}
