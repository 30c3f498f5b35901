// Runs the tests: the set-up, then the Rust and the JavaScript tests on separate Redis servers.
// Fails for every process that is left. The last line is `N passed, N failed, N skipped`.
//
//   node scripts/test.mjs [--part=contract|more|all] [--only=rust|js|redis8|faults|soak]
//                         [arguments for vitest]
//
// There are two parts. `contract` (`npm test`) tests the contract: the Rust tests and vitest's
// project `rollcall`. `more` (`npm run test:more`) has the rest: vitest's projects `more` and
// `faults`, those of `sizedTests` in their long form, the conformance tests with `liveness: "node"`,
// and those of `ON_REDIS_8` on a Redis 8. `npm
// run test:all` runs both. vitest.config.mts defines which tests belong to which project. With
// arguments for vitest, only vitest runs, on all projects unless `--project` is among the
// arguments.
//
// `--only=faults` (`npm run test:faults`) runs the fault tests in their long form, with 100 000
// cases for each property and a soak of a minute. `--only=soak` (`npm run test:soak`) runs the soak
// alone, for ten minutes, and prints how memory grows. `test:more` has the short form of both.
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { findChromium } from './lib/chromium.mjs';
import { findFaketime } from './lib/faketime.mjs';
import { runJsTests } from './lib/js-tests.mjs';
import { endLeftovers, findLeftovers, sweepLeftovers } from './lib/leftovers.mjs';
import { inRoot } from './lib/paths.mjs';
import { locateRedis8 } from './lib/redis8.mjs';
import { emptyTally, report, sum } from './lib/reports.mjs';
import { main, onInterrupt, SetupError } from './lib/run.mjs';
import { buildRustTests, runRustTests } from './lib/rust-tests.mjs';
import { checkNode } from './lib/toolchain.mjs';
import { requireRedis, setUp } from './setup.mjs';

/** The long form of the fault tests, in both languages. */
const LONG_FAULTS = { ROLLCALL_FAULTS: 'long', PROPTEST_CASES: '100000', NEXTEST_PROFILE: 'long' };

/** Enlarges tests whose size is a number of steps (`__test__/support/size.ts`). */
const LONG = { ROLLCALL_LONG: '1' };

/** The files of the project `rollcall` with such tests. */
function sizedTests() {
  return readdirSync(inRoot('__test__'), { recursive: true })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => `__test__/${name.replaceAll(path.sep, '/')}`)
    .filter((file) => readFileSync(inRoot(file), 'utf8').includes("/support/size.js'"));
}

const PARTS = ['contract', 'more', 'all'];
const ONLY = ['rust', 'js', 'redis8', 'faults', 'soak'];

/** The conformance tests, with nodes that answer for their connections (spec section 14). */
const OF_NODES = { ROLLCALL_LIVENESS: 'node' };
const CONFORMANCE = ['__test__/conformance/'];

/** vitest's projects by part. */
const PROJECTS = { contract: ['rollcall'], more: ['more', 'faults'], all: [] };

/**
 * The tests that also run on Redis 8: all uses of a client, on a single server and on a cluster.
 */
const ON_REDIS_8 = ['conformance', 'fleet', 'cluster'].map((folder) => `__test__/${folder}/`);

/** Parts of the names of property tests. */
const PROPERTIES = [
  'property',
  'quoted_as',
  'entries_agree',
  'read_back',
  'never_make_the_same',
  'no_bytes_at_all',
  'a_difference_is_all',
];

async function runOnRedis8(env, args) {
  const found = locateRedis8();
  if ('why' in found) {
    return { ...emptyTally(), skipped: [{ name: 'tests on Redis 8', reason: found.why }] };
  }
  const tests = [...ON_REDIS_8, ...args];
  return runJsTests({ ...env, REDIS_SERVER_BIN: found.file }, ['rollcall', 'more'], tests);
}

/** The steps to run, in order: titles, and functions that run them. */
function plan({ part, only, args }) {
  const js =
    (projects, variables = {}, files = []) =>
    (env) =>
      runJsTests({ ...env, ...variables }, projects, [...files, ...args]);
  const soak = { ROLLCALL_FAULTS: 'soak' };
  const redis8 = { 'JavaScript tests on Redis 8': (env) => runOnRedis8(env, args) };
  if (only === 'rust') return { 'Rust tests': (env) => runRustTests(env) };
  if (only === 'js') return { 'JavaScript tests': js(PROJECTS[part]) };
  if (only === 'redis8') return redis8;
  if (only === 'soak') return { soak: js(['faults'], soak, ['__test__/faults/soak.test.ts']) };
  if (only === 'faults') {
    return {
      'fault tests, long form': js(['faults'], LONG_FAULTS),
      'Rust tests of properties': (env) => runRustTests({ ...env, ...LONG_FAULTS }, PROPERTIES),
    };
  }
  // The arguments choose the tests; vitest's options can choose among its projects.
  if (args.length > 0) return { 'JavaScript tests': js([]) };
  return {
    ...(part !== 'more' && { 'Rust tests': (env) => runRustTests(env) }),
    'JavaScript tests': js(PROJECTS[part]),
    ...(part !== 'contract' && {
      'JavaScript tests, long form': js(['rollcall'], LONG, sizedTests()),
      'conformance tests with liveness: "node"': js(['rollcall'], OF_NODES, CONFORMANCE),
      ...redis8,
    }),
  };
}

function readArguments() {
  const given = process.argv.slice(2);
  const take = (name, allowed, otherwise) => {
    const start = `--${name}=`;
    const value = given.find((arg) => arg.startsWith(start))?.slice(start.length) ?? otherwise;
    if (value === undefined || allowed.includes(value)) return value;
    throw new SetupError(`${start}${value}: it is one of ${allowed.join(', ')}.`);
  };
  return {
    part: take('part', PARTS, 'contract'),
    only: take('only', ONLY),
    args: given.filter((arg) => !/^--(part|only)=/.test(arg)),
  };
}

main(async () => {
  const { part, only, args } = readArguments();
  const steps = plan({ part, only, args });
  const withRust = Object.keys(steps).some((title) => title.startsWith('Rust'));
  const withJs = only !== 'rust';
  const contractAlone = part === 'contract' && args.length === 0;

  checkNode();
  const redis = await requireRedis();
  // Without these, the tests that need them report that they are skipped.
  const chromium = withJs && !contractAlone ? await findChromium() : undefined;
  if (withJs) await findFaketime();
  // In parallel: each of them uses at most one processor for some of the time.
  await Promise.all([setUp(), ...(withRust ? [buildRustTests()] : [])]);

  // All temporary files of the run are in this folder, which also identifies its processes.
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
    for (const [title, tests] of Object.entries(steps)) {
      console.log(`· ${title}`);
      tallies.push(await tests(env));
    }
    tallies.push(await sweepLeftovers(folder));
  } finally {
    cleanUp();
  }

  return report(sum(tallies));
});
