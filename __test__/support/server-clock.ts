// Redis servers whose wall clock tests can change while they run (spec 6.8). A small library is
// compiled once and loaded into the server; it adds an offset from a file to the machine's time.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Redis } from 'ioredis';
import { expect } from 'vitest';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from './process.js';
import { startProxy } from './proxy.js';
import { type RedisServer, type RedisServerOptions, startRedis } from './redis.js';
import { eventually } from './wait.js';

const SOURCE = path.join(import.meta.dirname, 'fixtures/server-clock.c');

/** A wall clock for servers: that of the machine, plus an offset in milliseconds. */
export class ServerClock {
  /** The environment variables for a server. */
  readonly env: Record<string, string>;
  readonly #file: string;

  constructor(offsetMs = 0) {
    const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-test-clock-'));
    removeWithProcess(folder);
    this.#file = path.join(folder, 'offset');
    this.set(offsetMs);
    this.env = { LD_PRELOAD: compiled(), ROLLCALL_TEST_CLOCK: this.#file };
  }

  /** Sets the offset from the machine's clock in milliseconds; a negative one is behind it. */
  set(offsetMs: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(offsetMs));
    // Written in place, because the server has mapped the file.
    writeFileSync(this.#file, bytes, { flag: existsSync(this.#file) ? 'r+' : 'w' });
  }
}

/** Starts a server with its own clock. */
export async function startClockedRedis(
  options: RedisServerOptions = {},
): Promise<{ server: RedisServer; clock: ServerClock }> {
  const clock = new ServerClock();
  return { server: await startRedis({ ...options, env: clock.env }), clock };
}

/** A server with its own address, and a replica of it with another clock. */
export interface ClockedPair extends AsyncDisposable {
  /** Leads to the server, and after `failOver` to the former replica. */
  url: string;
  /**
   * Waits until the replica has all data of the server of `redis`, and makes it the only server.
   */
  failOver(redis: Redis): Promise<void>;
}

/** Starts a replica of a server, with a clock offset in milliseconds. */
export async function startClockedPair(
  server: RedisServer,
  offsetMs: number,
): Promise<ClockedPair> {
  const { server: heir, clock } = await startClockedRedis();
  const replica = await heir.client();
  await replica.replicaof(server.host, server.port);
  await eventually(
    async () => {
      expect(await replica.info('replication')).toContain('master_link_status:up');
    },
    { timeoutMs: 20_000 },
  );
  clock.set(offsetMs);
  const proxy = await startProxy(server.port);
  return {
    url: `redis://127.0.0.1:${proxy.port}`,
    failOver: async (redis) => {
      // WAIT waits only for writes of `redis` itself, and other clients have written, too.
      const written = await replicationOffset(redis, 'master');
      await eventually(
        async () => {
          expect(await replicationOffset(replica, 'slave')).toBeGreaterThanOrEqual(written);
        },
        { timeoutMs: 20_000 },
      );
      await replica.replicaof('NO', 'ONE');
      proxy.retarget({ host: heir.host, port: heir.port });
      proxy.cut();
    },
    [Symbol.asyncDispose]: async () => {
      await proxy[Symbol.asyncDispose]();
      await heir[Symbol.asyncDispose]();
    },
  };
}

/** The position of a server in the replication stream. */
async function replicationOffset(redis: Redis, role: 'master' | 'slave'): Promise<number> {
  const info = await redis.info('replication');
  return Number(new RegExp(`${role}_repl_offset:(\\d+)`).exec(info)?.[1]);
}

/** The reason why servers cannot have their own clock here, if there is one. */
export function whyNoServerClock(): string | undefined {
  if (process.platform !== 'linux')
    return 'a server gets another clock by LD_PRELOAD, on Linux only';
  try {
    compiled();
    return undefined;
  } catch (error) {
    return `the library for it cannot be compiled: ${(error as Error).message.split('\n')[0]}`;
  }
}

let library: string | undefined;

/**
 * The library, compiled once for each version of its source. Rust needs a C compiler to link with.
 */
function compiled(): string {
  library ??= (() => {
    const version = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
    const folder = inRoot('target', 'test-clock');
    const file = path.join(folder, `${version}.so`);
    if (!existsSync(file)) {
      mkdirSync(folder, { recursive: true });
      const temporary = `${file}.${process.pid}`;
      execFileSync('cc', ['-O2', '-shared', '-fPIC', '-o', temporary, SOURCE], { stdio: 'pipe' });
      renameSync(temporary, file);
    }
    return file;
  })();
  return library;
}
