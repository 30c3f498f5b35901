// Reading what the test runners report, into one kind of tally.
import { existsSync, readFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';

/** @typedef {{ passed: number, failed: number, skipped: { name: string, reason?: string }[] }} Tally */

/** @returns {Tally} */
export function emptyTally() {
  return { passed: 0, failed: 0, skipped: [] };
}

/** @param {Tally[]} tallies @returns {Tally} */
export function sum(tallies) {
  return {
    passed: tallies.reduce((total, { passed }) => total + passed, 0),
    failed: tallies.reduce((total, { failed }) => total + failed, 0),
    skipped: tallies.flatMap(({ skipped }) => skipped),
  };
}

/** A runner that failed without a failed test (it did not compile, it crashed) is a failure too. */
export function withExitCode(tally, code) {
  return code !== 0 && tally.failed === 0 ? { ...tally, failed: 1 } : tally;
}

/**
 * The output of `cargo test`: one `test result:` line for each program.
 * @returns {Tally}
 */
export function readCargoTest(output) {
  const text = stripVTControlCharacters(output);
  const tally = emptyTally();
  for (const [, passed, failed] of text.matchAll(
    /^test result: .* (\d+) passed; (\d+) failed;/gm,
  )) {
    tally.passed += Number(passed);
    tally.failed += Number(failed);
  }
  for (const [, name, reason] of text.matchAll(/^test (.+) \.\.\. ignored(?:, (.+))?$/gm)) {
    tally.skipped.push({ name, reason });
  }
  return tally;
}

/**
 * The output of `cargo nextest run`, and that of `cargo nextest list` for what it left out.
 * @returns {Tally}
 */
export function readNextest(output, ignored) {
  const summary = stripVTControlCharacters(output).match(/^\s*Summary \[.*$/m)?.[0] ?? '';
  const count = (...words) =>
    words.reduce(
      (total, word) => total + Number(summary.match(new RegExp(`(\\d+) ${word}`))?.[1] ?? 0),
      0,
    );
  // "5/7 tests run": a run that was cut short. Those not run have not passed.
  const [, ran, total] = summary.match(/(\d+)\/(\d+) tests? run/) ?? [];
  return {
    passed: count('passed'),
    failed: count('failed', 'exec failed', 'timed out') + (total ? Number(total) - Number(ran) : 0),
    skipped: ignored,
  };
}

/**
 * The ignored tests in the output of `cargo nextest list --run-ignored only --message-format json`.
 * @param {(testName: string) => string | undefined} reasonOf
 */
export function readNextestList(json, reasonOf) {
  return Object.values(JSON.parse(json)['rust-suites']).flatMap((suite) =>
    Object.entries(suite.testcases)
      .filter(([, test]) => test.ignored && test['filter-match'].status === 'matches')
      .map(([name]) => ({ name: `${suite['binary-id']} ${name}`, reason: reasonOf(name) })),
  );
}

/**
 * What `vitest-reporter.mjs` wrote.
 * @returns {Tally}
 */
export function readVitest(file) {
  if (!existsSync(file)) return { ...emptyTally(), failed: 1 };
  return JSON.parse(readFileSync(file, 'utf8'));
}
