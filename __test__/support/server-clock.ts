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
import { inRoot } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from './process.js';
import { type RedisServer, type RedisServerOptions, startRedis } from './redis.js';

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
