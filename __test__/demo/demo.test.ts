// The demo, run for real in each of its forms: what it shows, how it ends, what it leaves behind
// (issue 2, "Two commands").
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, realpathSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { findLeftovers } from '../../scripts/lib/leftovers.mjs';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { locateRedis } from '../../scripts/lib/redis.mjs';
import { endWithProcess, removeWithProcess } from '../support/process.js';
import { startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

const MAIN = inRoot('examples', 'demo', 'main.mjs');
/** It takes about 20 s; the rest is for a busy machine. */
const END_MS = 45_000;

interface Demo {
  child: ChildProcess;
  /** Everything that it has printed so far. */
  printed: () => string;
  code: Promise<number | null>;
  /** Fails if a process or a file of this run is still there. */
  expectNothingLeft: () => Promise<void>;
}

function start(command: string, args: string[], env: Record<string, string>): Demo {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-demo-test-'));
  const remove = removeWithProcess(folder);
  const child = spawn(command, args, {
    // By TMPDIR, everything that the demo starts is recognised.
    env: { PATH: '', TMPDIR: folder, TERM: 'xterm', ...env },
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
    code: new Promise((resolve) => child.once('close', resolve)),
    expectNothingLeft: async () => {
      await eventually(() => expect(findLeftovers(folder)).toEqual([]));
      expect(readdirSync(folder)).toEqual([]);
      remove();
    },
  };
}

function withRedis(): Record<string, string> {
  return { REDIS_SERVER_BIN: locateRedis() ?? '' };
}

/** What every whole run must end with. */
function expectSummary(printed: string): void {
  for (const server of ['A', 'B']) {
    expect(printed).toContain(
      `${server} saw 23 events: 10 join, 4 update, 9 leave (2 replaced, 6 left, 1 timeout)`,
    );
  }
  expect(printed).toContain('The same events in the same order, in each room: yes');
  expect(printed).toMatch(/\d+ heartbeats in (19|2\d)\.\d s; still present: nobody/);
}

function expectLines(printed: string): void {
  const lines = printed.split('\n');
  for (const line of lines) expect([...line].length, line).toBeLessThanOrEqual(80);
  for (const shown of [
    'ROOM    USER  CONNECTION  STATE',
    'lobby   ada   ada/pc      mic: on',
    'refused with CONNECTION_NOT_FOUND',
    'refused with STALE_EPOCH',
  ]) {
    expect(printed).toContain(shown);
  }
  // Each event stands once in each server's column, as that server saw it.
  for (const event of [
    'join   lobby  ada/pc   mic: off',
    'update lobby  ada/pc   mic: on,…',
    'leave  design cleo/tab replaced',
    'leave  design dev/tel  timeout',
    'leave  lobby  eve/tel  left',
  ]) {
    expect(lines.filter((line) => line.includes(` A ${event}`))).toHaveLength(1);
    expect(lines.filter((line) => line.includes(`│ B ${event}`))).toHaveLength(1);
  }
  expect(printed).not.toContain('\x1b');
  expectSummary(printed);
}

describe.concurrent('npm run demo', { timeout: END_MS + 15_000 }, () => {
  test('starts a Redis of its own, two servers, and ends by itself', async () => {
    const demo = start(process.execPath, [MAIN], withRedis());
    expect(await within(demo.code, END_MS, 'the end'), demo.printed()).toBe(0);
    expect(demo.printed()).toMatch(/^Rollcall · two servers on redis:\/\/127\.0\.0\.1:\d+\n/);
    expectLines(demo.printed());
    await demo.expectNothingLeft();
  });

  test('uses the Redis of REDIS_URL, and leaves nothing there', async () => {
    await using server = await startRedis({ requirepass: 'hush' });
    const admin = await server.client();
    await admin.set('mine', 'as it was');
    const demo = start(process.execPath, [MAIN], { REDIS_URL: server.url });
    await eventually(async () => expect(await admin.dbsize()).toBeGreaterThan(1), {
      timeoutMs: 15_000,
    });
    for (const key of await admin.keys('*')) expect(key).toMatch(/^(mine$|rollcall-demo:)/);
    expect(await within(demo.code, END_MS, 'the end'), demo.printed()).toBe(0);
    expectLines(demo.printed());
    expect(demo.printed()).not.toContain('hush');
    expect(await admin.keys('*')).toEqual(['mine']);
    await demo.expectNothingLeft();
  });

  test('runs in one process, and says so, where there is no Redis', async () => {
    const demo = start(process.execPath, [MAIN], {});
    expect(await within(demo.code, END_MS, 'the end'), demo.printed()).toBe(0);
    expect(demo.printed()).toMatch(/^No Redis found: everything runs in this one process.*\n/);
    expectLines(demo.printed());
    await demo.expectNothingLeft();
  });

  test('draws one picture on a terminal of 80 columns and 24 rows', async (context) => {
    const script = ['/usr/bin/script', '/bin/script'].find((file) => locate(file));
    if (script === undefined || process.platform !== 'linux') {
      return context.skip('there is no script(1) to make a terminal with');
    }
    const command = `stty cols 80 rows 24; exec "${process.execPath}" "${MAIN}"`;
    const env = { ...withRedis(), PATH: '/usr/bin:/bin', SHELL: '/bin/sh' };
    const demo = start(script, ['-qec', command, '/dev/null'], env);
    expect(await within(demo.code, END_MS, 'the end'), demo.printed()).toBe(0);
    const printed = demo.printed().replaceAll('\r', '');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal is told
    const up = [...printed.matchAll(/\x1b\[(\d+)A/g)].map(([, rows]) => Number(rows));
    expect(up.length).toBeGreaterThan(20);
    expect(new Set(up)).toEqual(new Set([23]));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what a terminal is told
    const plain = printed.replaceAll(/\x1b\[[\d;?]*[A-Za-z]/g, '');
    for (const line of plain.split('\n')) expect([...line].length, line).toBeLessThanOrEqual(80);
    expect(plain).toContain('What server A sees                     │ What server B sees');
    // Hidden while it draws, and there again at the end.
    expect(printed.indexOf('\x1b[?25l')).toBeLessThan(printed.lastIndexOf('\x1b[?25h'));
    expectSummary(plain);
    await demo.expectNothingLeft();
  });

  test.each(['SIGINT', 'SIGTERM'] as const)(
    '--forever goes on until %s, and cleans up',
    async (signal) => {
      const demo = start(process.execPath, [MAIN, '--forever'], withRedis());
      await eventually(() => expect(demo.printed()).toContain('eve/tel'), { timeoutMs: 20_000 });
      demo.child.kill(signal);
      expect(await within(demo.code, 8000, 'the end')).toBe(signal === 'SIGINT' ? 0 : 1);
      expect(demo.printed()).not.toContain('rollcall demo:');
      await demo.expectNothingLeft();
    },
  );

  test('says in one line what is wrong, and ends', async () => {
    const demo = start(process.execPath, [MAIN], { REDIS_URL: 'redis://:hush@127.0.0.1:1' });
    expect(await within(demo.code, 15_000, 'the end')).toBe(1);
    expect(demo.printed()).toMatch(/^rollcall demo: Redis at 127\.0\.0\.1:1 cannot be reached\n$/);
    await demo.expectNothingLeft();
  });
});

function locate(file: string): boolean {
  try {
    return readdirSync(path.dirname(file)).includes(path.basename(file));
  } catch {
    return false;
  }
}
