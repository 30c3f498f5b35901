// Reads the reports of the test runners into one kind of tally.
import { existsSync, readFileSync } from 'node:fs';
import { stripVTControlCharacters } from 'node:util';

/**
 * `failures` names the failed tests, if the runner reports them; `failed` is the count.
 *
 * @typedef {{ passed: number, failed: number, failures: string[],
 *   skipped: { name: string, reason?: string }[] }} Tally
 */

/** @returns {Tally} */
export function emptyTally() {
  return { passed: 0, failed: 0, failures: [], skipped: [] };
}

/** One failure outside of any test. @returns {Tally} */
export function failure(what) {
  return { ...emptyTally(), failed: 1, failures: [what] };
}

/** @param {Tally[]} tallies @returns {Tally} */
export function sum(tallies) {
  return {
    passed: tallies.reduce((total, { passed }) => total + passed, 0),
    failed: tallies.reduce((total, { failed }) => total + failed, 0),
    failures: tallies.flatMap(({ failures }) => failures),
    skipped: tallies.flatMap(({ skipped }) => skipped),
  };
}

/** A runner that failed without a failed test (a compile error, a crash) counts as a failure. */
export function withExitCode(tally, code, runner) {
  if (code === 0 || tally.failed > 0) return tally;
  return sum([tally, failure(`${runner} ended with exit code ${code}`)]);
}

/** @param {Tally} tally */
function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped.length} skipped`;
}

/**
 * Prints a run's closing lines, and gives its exit code.
 * @param {Tally} tally
 */
export function report(tally) {
  for (const { name, reason } of tally.skipped) {
    console.log(`skipped: ${name} (${reason ?? 'no reason given'})`);
  }
  for (const name of tally.failures) console.log(`failed: ${name}`);
  console.log(closingLine(tally));
  // A run without any test is not a success.
  return tally.failed === 0 && tally.passed > 0 ? 0 : 1;
}

/** The last closing line in the output of a run, if there is one. */
export function readClosingLine(output) {
  const found = [...output.matchAll(/^(\d+) passed, (\d+) failed, (\d+) skipped$/gm)].at(-1);
  if (found === undefined) return undefined;
  const [passed, failed, skipped] = found.slice(1).map(Number);
  return { passed, failed, skipped };
}

/**
 * Reads the output of `cargo test`: one `test result:` line for each program.
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
  for (const [, name] of text.matchAll(/^test (.+) \.\.\. FAILED$/gm)) tally.failures.push(name);
  for (const [, name, reason] of text.matchAll(/^test (.+) \.\.\. ignored(?:, (.+))?$/gm)) {
    tally.skipped.push({ name, reason });
  }
  return tally;
}

/**
 * Reads the output of `cargo nextest run`, with the tests that `cargo nextest list` reports as
 * ignored.
 * @returns {Tally}
 */
export function readNextest(output, ignored) {
  const text = stripVTControlCharacters(output);
  const start = text.search(/^ *Summary \[/m);
  // The summary is one line; the following lines name the failed tests.
  const [summary = '', ...list] = start === -1 ? [] : text.slice(start).split('\n');
  const count = (...words) =>
    words.reduce(
      (total, word) => total + Number(summary.match(new RegExp(`(\\d+) ${word}`))?.[1] ?? 0),
      0,
    );
  // "5/7 tests run": an aborted run. Tests that did not run count as failed.
  const [, ran, total] = summary.match(/(\d+)\/(\d+) tests? run/) ?? [];
  return {
    passed: count('passed'),
    failed: count('failed', 'exec failed', 'timed out') + (total ? Number(total) - Number(ran) : 0),
    failures: list.flatMap(
      (line) => /^ *[A-Z]+ \[[^\]]*\] (?:\(.*?\) )?(.+)$/.exec(line)?.[1] ?? [],
    ),
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
 * Reads the file of `vitest-reporter.mjs`.
 * @returns {Tally}
 */
export function readVitest(file) {
  if (!existsSync(file)) return failure('vitest ended without a report');
  return JSON.parse(readFileSync(file, 'utf8'));
}
