// Redis servers whose wall clock tests move while they run (spec 6.8). A small library is compiled once
// and loaded into the server; it adds what a file says to the machine's time.
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

/** A wall clock for servers: that of the machine, moved by some milliseconds. */
export class ServerClock {
  /** For the environment of a server. */
  readonly env: Record<string, string>;
  readonly #file: string;

  constructor(offsetMs = 0) {
    const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-test-clock-'));
    removeWithProcess(folder);
    this.#file = path.join(folder, 'offset');
    this.set(offsetMs);
    this.env = { LD_PRELOAD: compiled(), ROLLCALL_TEST_CLOCK: this.#file };
  }

  /** From now on the clock is that many milliseconds ahead of the machine's, or behind it. */
  set(offsetMs: number): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(offsetMs));
    // Written in place: the server has the file mapped.
    writeFileSync(this.#file, bytes, { flag: existsSync(this.#file) ? 'r+' : 'w' });
  }
}

/** Starts a server with a clock of its own. */
export async function startClockedRedis(
  options: RedisServerOptions = {},
): Promise<{ server: RedisServer; clock: ServerClock }> {
  const clock = new ServerClock();
  return { server: await startRedis({ ...options, env: clock.env }), clock };
}

/** A server at an address of its own, and a replica of it with another clock. */
export interface ClockedPair extends AsyncDisposable {
  /** Leads to the server, and after `failOver` to the former replica. */
  url: string;
  /** Waits until the replica has what the server of `redis` has, and makes it the only server. */
  failOver(redis: Redis): Promise<void>;
}

/** Starts a replica of a server, with a clock that is so many milliseconds off. */
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
      // WAIT would wait for what `redis` itself has written, and others have written.
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

/** Up to which byte of the replication stream a server is. */
async function replicationOffset(redis: Redis, role: 'master' | 'slave'): Promise<number> {
  const info = await redis.info('replication');
  return Number(new RegExp(`${role}_repl_offset:(\\d+)`).exec(info)?.[1]);
}

/** Why servers cannot have a clock of their own here, if they cannot. */
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

/** The library, compiled once for each version of its text. Rust has a C compiler to link with. */
function compiled(): string {
  library ??= (() => {
    const version = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
    const folder = inRoot('target', 'test-clock');
    const file = path.join(folder, `${version}.so`);
    if (!existsSync(file)) {
      mkdirSync(folder, { recursive: true });
      const aside = `${file}.${process.pid}`;
      execFileSync('cc', ['-O2', '-shared', '-fPIC', '-o', aside, SOURCE], { stdio: 'pipe' });
      renameSync(aside, file);
    }
    return file;
  })();
  return library;
}
