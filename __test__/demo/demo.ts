// Starts the demo as a user would, for the tests of this folder.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, realpathSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'vitest';
import { findLeftovers } from '../../scripts/lib/leftovers.mjs';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { locateRedis } from '../../scripts/lib/redis.mjs';
import { endWithProcess, removeWithProcess } from '../support/process.js';
import { eventually } from '../support/wait.js';

export interface Demo {
  child: ChildProcess;
  /** All output so far. */
  printed: () => string;
  /** The URLs of its servers, when they are running. */
  urls: (count: number) => Promise<string[]>;
  code: Promise<number | null>;
  /** Fails if a process or a file of this run still exists. */
  expectNothingLeft: () => Promise<void>;
}

/** The path of redis-server, for a demo that starts one. */
export function withRedis(): Record<string, string> {
  return { REDIS_SERVER_BIN: locateRedis() ?? '' };
}

export function startDemo(args: string[], env: Record<string, string> = {}): Demo {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-demo-test-'));
  const remove = removeWithProcess(folder);
  const main = inRoot('examples', 'demo', 'main.mjs');
  const child = spawn(process.execPath, [main, ...args], {
    // TMPDIR marks everything that the demo starts.
    env: { PATH: '', TMPDIR: folder, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  endWithProcess(child);
  let printed = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      printed += text;
    });
  }
  return {
    child,
    printed: () => printed,
    urls: (count) =>
      eventually(
        () => {
          const urls = printed.match(/http:\/\/localhost:\d+/g) ?? [];
          expect(urls, printed).toHaveLength(count);
          return urls;
        },
        { timeoutMs: 15_000 },
      ),
    code: new Promise((resolve) => child.once('close', resolve)),
    expectNothingLeft: async () => {
      await eventually(() => expect(findLeftovers(folder)).toEqual([]));
      expect(readdirSync(folder)).toEqual([]);
      remove();
    },
  };
}
