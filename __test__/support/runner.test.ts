// Tests of the test runner itself (scripts/): a run that is not a success must never look like one.
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, openSync, realpathSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { runJsTests } from '../../scripts/lib/js-tests.mjs';
import { sweepLeftovers } from '../../scripts/lib/leftovers.mjs';
import { inRoot } from '../../scripts/lib/paths.mjs';
import {
  emptyTally,
  failure,
  readCargoTest,
  readClosingLine,
  readNextest,
  report,
  sum,
  withExitCode,
} from '../../scripts/lib/reports.mjs';
import { removeWithProcess } from './process.js';

const CONFIG = inRoot('__test__', 'support', 'fixtures', 'runs', 'vitest.config.mts');

function newFolder(): string {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-runner-'));
  onTestFinished(removeWithProcess(folder));
  return folder;
}

/** Runs one of fixtures/runs/ in the same way as `npm test` runs the JavaScript tests. */
async function runFile(name: string) {
  const folder = newFolder();
  const env = { TMPDIR: folder, VITEST: '', VITEST_POOL_ID: '', VITEST_WORKER_ID: '' };
  const output = openSync(path.join(folder, 'output'), 'w');
  const tally = await runJsTests(env, [], ['--config', CONFIG, `${name}.run.ts`], { output });
  return sum([tally, await sweepLeftovers(folder)]);
}

/** The exit code of a run with that tally, and its output. */
function reported(tally: ReturnType<typeof emptyTally>): { code: number; lines: string[] } {
  const print = vi.spyOn(console, 'log').mockImplementation(() => {});
  try {
    const code = report(tally);
    return { code, lines: print.mock.calls.map(([line]) => String(line)) };
  } finally {
    print.mockRestore();
  }
}

describe('a run of JavaScript tests', () => {
  test('passes if all tests pass', async () => {
    const { code, lines } = reported(await runFile('passes'));
    expect([code, lines]).toEqual([0, ['2 passed, 0 failed, 0 skipped']]);
  });

  test.each([
    ['fails', 1, ['fails.run.ts > fails: expected 1', 'a suite > fails, too: on purpose']],
    ['rejects', 1, ['unhandled Error: nobody looks']],
    ['throws', 1, ['unhandled Error: thrown past the test']],
    ['hooks', 1, ['hooks.run.ts: in the hook']],
    ['loads-not', 0, ['loads-not.run.ts: on loading']],
    ['leaves', 1, ['left behind: ']],
    ['no-such-file', 0, ['vitest ended with exit code 1']],
  ])('of %s.run.ts fails, and prints the reason', async (name, passed, failures) => {
    const tally = await runFile(name);
    const { code, lines } = reported(tally);
    expect(tally.passed).toBe(passed);
    expect(tally.failed).toBe(failures.length);
    for (const [i, part] of failures.entries()) expect(lines[i]).toContain(part);
    expect(lines.slice(0, -1).every((line) => line.startsWith('failed: '))).toBe(true);
    expect(lines.at(-1)).toBe(`${passed} passed, ${failures.length} failed, 0 skipped`);
    expect(code).toBe(1);
  });

  test('fails if it contains test.only', async () => {
    const { code, lines } = reported(await runFile('only'));
    expect(lines).toContainEqual(expect.stringMatching(/^failed: only.run.ts.*only/));
    expect(code).toBe(1);
  });

  test('fails if its process is killed', async () => {
    const { code, lines } = reported(await runFile('dies'));
    expect([code, lines.at(-1)]).toEqual([1, expect.stringMatching(/^0 passed, [1-9]/)]);
  });

  test('fails if no test ran, and prints why tests were skipped', async () => {
    const { code, lines } = reported(await runFile('skips'));
    expect(lines).toEqual([
      'skipped: skips.run.ts > by a condition (there is no such server here)',
      'skipped: skips.run.ts > by hand (skip)',
      '0 passed, 0 failed, 2 skipped',
    ]);
    expect(code).toBe(1);
  });
});

describe('the reports of Rust’s runners', () => {
  const NEXTEST = `
        FAIL [   0.282s] (3/4) rollcall model::bad
  stdout ───
────────────
     Summary [   0.282s] 4 tests run: 1 passed, 3 failed, 1 timed out, 2 skipped
     SIGABRT [   0.009s] (1/4) rollcall model::aborts
        FAIL [   0.282s] (3/4) rollcall model::bad
     TIMEOUT [ 180.282s] (4/4) rollcall model::hangs
error: test run failed
`;

  test('nextest: counts, and names the failed tests', () => {
    const ignored = [{ name: 'rollcall slow', reason: 'takes an hour' }];
    expect(readNextest(NEXTEST, ignored)).toEqual({
      passed: 1,
      failed: 4,
      failures: ['rollcall model::aborts', 'rollcall model::bad', 'rollcall model::hangs'],
      skipped: ignored,
    });
  });

  test('nextest: tests that did not run count as failed', () => {
    const { passed, failed } = readNextest('     Summary [ 1.0s] 5/7 tests run: 5 passed\n', []);
    expect([passed, failed]).toEqual([5, 2]);
  });

  test('cargo test: counts over all programs, and names the failed and ignored tests', () => {
    const output = `test a ... ok
test b ... FAILED
test c ... ignored, takes an hour
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
`;
    expect(readCargoTest(output)).toEqual({
      passed: 4,
      failed: 1,
      failures: ['b'],
      skipped: [{ name: 'c', reason: 'takes an hour' }],
    });
  });

  test('a runner that ends with an error but names no test has failed', () => {
    const passed = { ...emptyTally(), passed: 3 };
    expect(withExitCode(passed, 0, 'it')).toEqual(passed);
    expect(withExitCode(passed, 101, 'it')).toEqual({
      ...passed,
      failed: 1,
      failures: ['it ended with exit code 101'],
    });
    expect(withExitCode(failure('a test'), 101, 'it').failed).toBe(1);
  });
});

describe('.ci/run', () => {
  /** Runs it with programs that only print and end. Returns the exit code and the lines printed. */
  async function runCi(programs: Record<string, string>): Promise<[number, string[]]> {
    const folder = newFolder();
    mkdirSync(path.join(folder, 'bin'));
    for (const name of ['npm', 'cargo']) {
      const file = path.join(folder, 'bin', name);
      writeFileSync(file, `#!/bin/sh\n${programs[name] ?? ''}\n`);
      chmodSync(file, 0o755);
    }
    const env = { ...process.env, PATH: `${path.join(folder, 'bin')}:${process.env.PATH}` };
    return new Promise((resolve) => {
      execFile(inRoot('.ci', 'run'), { env }, (error, stdout) => {
        const code = typeof error?.code === 'number' ? error.code : 0;
        resolve([code, stdout.trim().split('\n')]);
      });
    });
  }

  const CLOSING = 'echo "5 passed, 0 failed, 2 skipped"';
  /** `npm run test`, `npm run test:more`, and the checks that npm runs. */
  const npm = (test: string, more: string, checks = 'exit 0') =>
    `case "$2" in test) ${test};; test:more) ${more};; *) ${checks};; esac`;

  test('adds both parts of the tests, and the checks', async () => {
    const [code, lines] = await runCi({ npm: npm(CLOSING, CLOSING) });
    expect([code, lines.at(-1)]).toEqual([0, '22 passed, 0 failed, 4 skipped']);
  });

  const FAILS = 'echo "failed: a.test.ts > b: c"; echo "4 passed, 1 failed, 0 skipped"; exit 1';

  test.each([
    ['a failed test of npm test', npm(FAILS, CLOSING), 'npm run test: a.test.ts > b: c'],
    ['a failed test of test:more', npm(CLOSING, FAILS), 'npm run test:more: a.test.ts > b: c'],
    [
      'an exit code without a failed test',
      npm(`${CLOSING}; exit 1`, CLOSING),
      'npm run test: exit code 1',
    ],
    [
      'tests without a closing line',
      npm(CLOSING, 'echo nothing'),
      'npm run test:more: exit code 0, without a closing line',
    ],
    ['a failed lint', npm(CLOSING, CLOSING, 'exit 1'), 'biome'],
  ])('%s fails it, and is named before the closing line', async (_, program, named) => {
    const [code, lines] = await runCi({ npm: program });
    expect(code).toBe(1);
    const failed = readClosingLine(lines.at(-1) ?? '')?.failed ?? 0;
    expect(failed).toBeGreaterThan(0);
    const names = lines.slice(-1 - failed, -1);
    expect(names).toContain(`failed: ${named}`);
    expect(names.every((line) => line.startsWith('failed: '))).toBe(true);
  });

  test('a failed check of cargo fails it', async () => {
    const cargo = 'test "$1" != fmt';
    const [code, lines] = await runCi({ npm: npm(CLOSING, CLOSING), cargo });
    expect([code, ...lines.slice(-2)]).toEqual([
      1,
      'failed: cargo fmt',
      '21 passed, 1 failed, 4 skipped',
    ]);
  });
});
