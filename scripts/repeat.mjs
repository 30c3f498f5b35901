// `npm run test:repeat`: runs the tests repeatedly, each time with another seed, and prints the
// failures of each run. For finding tests that fail rarely.
//
//   npm run test:repeat -- [--times=10] [--hogs=0] [arguments for scripts/test.mjs]
//
// Without further arguments each run is `npm test`; `--part=all` makes it `npm run test:all`, and
// arguments for vitest (files, `-t`) choose tests. `--hogs` sets the number of busy processes that
// run in parallel. The output of each run goes to a file in target/repeat/, which is kept if the
// run failed.
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './lib/paths.mjs';
import { readClosingLine } from './lib/reports.mjs';
import { main, onInterrupt, run, SetupError } from './lib/run.mjs';

/** A run that takes longer counts as hung: it is ended and counts as failed. */
const MAX_RUN_MS = 60 * 60_000;

const LOGS = inRoot('target', 'repeat');

/** Keeps a processor busy while this process exists. */
const HOG = `while (process.ppid === ${process.pid});`;

function startHogs(count) {
  const hogs = Array.from({ length: count }, () =>
    spawn(process.execPath, ['-e', HOG], { stdio: 'ignore' }),
  );
  const end = () => {
    for (const hog of hogs) hog.kill('SIGKILL');
  };
  onInterrupt(end);
  return end;
}

/** One run: its counts, and the lines about failed and skipped tests. */
async function runOnce(args, seed, file) {
  const output = openSync(file, 'w');
  try {
    const { code } = await run(process.execPath, [inRoot('scripts', 'test.mjs'), ...args], {
      env: { ROLLCALL_SEED: String(seed) },
      output,
      timeoutMs: MAX_RUN_MS,
    });
    const text = readFileSync(file, 'utf8');
    const failures = text.split('\n').filter((line) => line.startsWith('failed: '));
    const counted = readClosingLine(text) ?? { passed: 0, failed: 0, skipped: 0 };
    if (code !== 0 && failures.length === 0) failures.push(`failed: exit code ${code}`);
    return { ...counted, failures };
  } finally {
    closeSync(output);
  }
}

function readArguments() {
  const given = process.argv.slice(2);
  const rest = [];
  const counts = { times: 10, hogs: 0 };
  for (let i = 0; i < given.length; i++) {
    const [, name, value] = /^--(times|hogs)(?:=(.*))?$/.exec(given[i]) ?? [];
    if (name === undefined) {
      rest.push(given[i]);
      continue;
    }
    const text = value ?? given[++i];
    if (!/^\d+$/.test(text ?? '')) throw new SetupError(`--${name} takes a number.`);
    counts[name] = Number(text);
  }
  return { ...counts, args: rest };
}

main(async () => {
  const { times, hogs, args } = readArguments();
  mkdirSync(LOGS, { recursive: true });
  const endHogs = startHogs(hogs);
  const began = Date.now();
  /** The number of runs with each failure. */
  const seen = new Map();
  let bad = 0;
  try {
    for (let number = 1; number <= times; number++) {
      const seed = randomInt(2 ** 32);
      const file = path.join(LOGS, `${began}-${number}.log`);
      const start = Date.now();
      console.log(
        `run ${number} of ${times}: ROLLCALL_SEED=${seed}, ${path.relative(inRoot(), file)}`,
      );
      const { passed, failed, skipped, failures } = await runOnce(args, seed, file);
      const seconds = Math.round((Date.now() - start) / 1000);
      console.log(`  ${passed} passed, ${failed} failed, ${skipped} skipped (${seconds} s)`);
      if (failures.length === 0) {
        rmSync(file);
        continue;
      }
      bad++;
      for (const failure of failures) {
        console.log(`  ${failure}`);
        seen.set(failure, (seen.get(failure) ?? 0) + 1);
      }
    }
  } finally {
    endHogs();
  }
  for (const [failure, runs] of [...seen].sort((a, b) => b[1] - a[1])) {
    console.log(`${runs} of ${times} runs: ${failure}`);
  }
  console.log(`${times - bad} of ${times} runs clean, with ${hogs} CPU hogs`);
  return bad === 0 && times > 0 ? 0 : 1;
});
