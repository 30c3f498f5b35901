// `npm test`: does the set-up, runs the Rust and the JavaScript tests on Redis servers of their
// own, and sees to it that no process is left. The last line is `N passed, N failed, N skipped`.
//
//   node scripts/test.mjs [--only=rust|js|redis8|faults|soak] [arguments for vitest]
//
// After the JavaScript tests those of `ON_REDIS_8` run once more, on a Redis 8 (`--only=redis8`).
// `--only=faults` is `npm run test:faults`: the fault tests in their long form, with 100 000 cases
// for each property, and a soak of a minute. `--only=soak` is `npm run test:soak`: the soak alone,
// for ten minutes, which says how memory grows. `npm test` has the short form of all of them.
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { findChromium } from './lib/chromium.mjs';
import { findFaketime } from './lib/faketime.mjs';
import { endLeftovers, findLeftovers } from './lib/leftovers.mjs';
import { inRoot, packageBin } from './lib/paths.mjs';
import { locateRedis8 } from './lib/redis8.mjs';
import {
  emptyTally,
  readCargoTest,
  readNextest,
  readNextestList,
  readVitest,
  sum,
  withExitCode,
} from './lib/reports.mjs';
import { main, onInterrupt, read, run } from './lib/run.mjs';
import { checkNode } from './lib/toolchain.mjs';
import { requireRedis, setUp } from './setup.mjs';

const CORE = ['--no-default-features'];

/** The long form of the fault tests, in both languages. */
const LONG = { ROLLCALL_FAULTS: 'long', PROPTEST_CASES: '100000', NEXTEST_PROFILE: 'long' };

/** What is run on Redis 8, too: all that a client does, on a single server and on a cluster. */
const ON_REDIS_8 = ['conformance', 'fleet', 'cluster'].map((part) => `__test__/${part}/`);

/** Words of the names of the property tests. */
const PROPERTIES = [
  'property',
  'quoted_as',
  'entries_agree',
  'read_back',
  'never_make_the_same',
  'no_bytes_at_all',
  'a_difference_is_all',
];

async function runRustTests(env, filter = []) {
  const hasNextest = read('cargo', ['nextest', '--version']) !== undefined;
  // Compiled apart from the run: compilers may start daemons (a build cache), which are not ours.
  const build = await run('cargo', ['test', ...CORE, '--no-run']);
  if (build.code !== 0) return { ...emptyTally(), failed: 1 };
  if (!hasNextest) {
    const all = await run('cargo', ['test', ...CORE, '--no-fail-fast'], {
      env,
      capture: true,
    });
    return withExitCode(readCargoTest(all.output), all.code);
  }
  const list = ['nextest', 'list', ...CORE, '--run-ignored', 'only', '--message-format', 'json'];
  const ignored = readNextestList(read('cargo', list) ?? '{"rust-suites":{}}', ignoreReason);
  const tests = await run('cargo', ['nextest', 'run', ...CORE, '--no-tests', 'pass', ...filter], {
    env,
    capture: true,
  });
  if (filter.length > 0) return withExitCode(readNextest(tests.output, []), tests.code);
  // Nextest does not know the examples in doc comments.
  const docs = await run('cargo', ['test', ...CORE, '--doc'], { env, capture: true });
  return sum([
    withExitCode(readNextest(tests.output, ignored), tests.code),
    withExitCode(readCargoTest(docs.output), docs.code),
  ]);
}

/** The text of `#[ignore = "…"]` before the function; nextest does not hand it on. */
function ignoreReason(testName) {
  const name = testName.split('::').at(-1);
  const pattern = new RegExp(
    `#\\[ignore = "([^"]*)"\\]\\s*(?:#\\[[^\\]]*\\]\\s*)*(?:async )?fn ${name}\\b`,
  );
  for (const folder of ['src', 'tests']) {
    for (const file of listFiles(inRoot(folder))) {
      const reason = pattern.exec(readFileSync(file, 'utf8'))?.[1];
      if (reason !== undefined) return reason;
    }
  }
  return undefined;
}

function listFiles(folder) {
  try {
    return readdirSync(folder, { recursive: true })
      .filter((name) => name.endsWith('.rs'))
      .map((name) => path.join(folder, name));
  } catch {
    return [];
  }
}

async function runJsTests(env, args) {
  const file = path.join(env.TMPDIR, 'vitest-tally.json');
  const { code } = await run(
    process.execPath,
    [
      packageBin('vitest', 'vitest'),
      'run',
      '--reporter=default',
      `--reporter=${inRoot('scripts', 'lib', 'vitest-reporter.mjs')}`,
      ...args,
    ],
    { env: { ...env, ROLLCALL_TALLY_FILE: file } },
  );
  return withExitCode(readVitest(file), code);
}

async function runOnRedis8(env, args) {
  const found = locateRedis8();
  if ('why' in found) {
    return { ...emptyTally(), skipped: [{ name: 'tests on Redis 8', reason: found.why }] };
  }
  const tests = ['--project', 'rollcall', ...ON_REDIS_8, ...args];
  return runJsTests({ ...env, REDIS_SERVER_BIN: found.file }, tests);
}

/** Fails the run for every process that is still there shortly after the tests have ended. */
async function sweepLeftovers(folder) {
  // A server that got its signal just now may take a moment to write its data and end.
  const deadline = Date.now() + 3000;
  let leftovers = findLeftovers(folder);
  while (leftovers.length > 0 && Date.now() < deadline) {
    await delay(50);
    leftovers = findLeftovers(folder);
  }
  for (const { pid, command } of leftovers) console.error(`left behind: ${pid} ${command}`);
  endLeftovers(leftovers);
  return { ...emptyTally(), failed: leftovers.length };
}

main(async () => {
  const only = process.argv.find((arg) => arg.startsWith('--only='))?.slice('--only='.length);
  const args = process.argv.slice(2).filter((arg) => !arg.startsWith('--only='));

  checkNode();
  const redis = await requireRedis();
  // Without these, the tests that need them say that they are skipped.
  const chromium = only === 'rust' ? undefined : await findChromium();
  if (only !== 'rust') await findFaketime();
  await setUp();

  // All temporary files of the run are in here, which is also how its processes are recognised.
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-test-'));
  const cleanUp = () => {
    endLeftovers(findLeftovers(folder));
    rmSync(folder, { recursive: true, force: true });
  };
  onInterrupt(cleanUp);
  const env = {
    REDIS_SERVER_BIN: redis,
    ...(chromium === undefined ? {} : { CHROMIUM_BIN: chromium }),
    TMPDIR: folder,
    TEMP: folder,
    TMP: folder,
  };

  const tallies = [];
  try {
    if (only === 'soak') {
      console.log('· soak');
      const soak = ['--project', 'faults', '__test__/faults/soak.test.ts'];
      tallies.push(await runJsTests({ ...env, ROLLCALL_FAULTS: 'soak' }, [...soak, ...args]));
    } else if (only === 'faults') {
      console.log('· fault tests, long form');
      tallies.push(await runJsTests({ ...env, ...LONG }, ['--project', 'faults', ...args]));
      tallies.push(await runRustTests({ ...env, ...LONG }, PROPERTIES));
    } else if (only === 'redis8') {
      console.log('· on Redis 8');
      tallies.push(await runOnRedis8(env, args));
    } else {
      if (only !== 'js') {
        console.log('· Rust tests');
        tallies.push(await runRustTests(env));
      }
      if (only !== 'rust') {
        console.log('· JavaScript tests');
        tallies.push(await runJsTests(env, args));
      }
      if (only === undefined && args.length === 0) {
        console.log('· JavaScript tests on Redis 8');
        tallies.push(await runOnRedis8(env, args));
      }
    }
    tallies.push(await sweepLeftovers(folder));
  } finally {
    cleanUp();
  }

  const { passed, failed, skipped } = sum(tallies);
  for (const { name, reason } of skipped) {
    console.log(`skipped: ${name} (${reason ?? 'no reason given'})`);
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped.length} skipped`);
  // A run in which nothing ran has shown nothing.
  return failed === 0 && passed > 0 ? 0 : 1;
});
