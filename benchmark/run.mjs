// `npm run bench`: runs scenarios, with each subject in its own process, on a redis-server that the
// run starts. Prints tables, and writes results, charts and the summary.
//
//   node benchmark/run.mjs [scenario…] [--quick] [--long] [--list] [--out=folder] [--no-setup]
//
// --quick     few and short rounds; writes nothing unless --out names a folder
// --long      also runs what takes minutes (ten million heartbeats in the scenario `memory`)
// --out       folder for the results, instead of benchmark/results (then docs/ is not changed)
// --no-setup  everything is built already
import path from 'node:path';
import { inRoot } from '../scripts/lib/paths.mjs';
import { main, onInterrupt, SetupError } from '../scripts/lib/run.mjs';
import { requireRedis, setUp } from '../scripts/setup.mjs';

const RESULTS = inRoot('benchmark', 'results');
const DOCUMENT = inRoot('docs', 'benchmarks.md');
const COSTS = inRoot('docs', 'reference', 'what-it-costs.md');
const FLAGS = ['--quick', '--long', '--list', '--no-setup'];

function readArguments(args) {
  const flags = new Set(args.filter((arg) => FLAGS.includes(arg)));
  const out = args.find((arg) => arg.startsWith('--out='))?.slice('--out='.length);
  const names = args.filter((arg) => !arg.startsWith('--'));
  const known = flags.size + names.length + (out === undefined ? 0 : 1);
  if (known !== args.length) {
    throw new SetupError(`options are ${FLAGS.join(', ')} and --out=folder`);
  }
  return {
    names,
    quick: flags.has('--quick'),
    long: flags.has('--long'),
    list: flags.has('--list'),
    setup: !flags.has('--no-setup'),
    out: out === undefined ? undefined : path.resolve(out),
  };
}

/** Runs subjects in alternation, with the order reversed in every second round: A B B A A B … */
async function interleave(subjects, rounds, run) {
  const results = Object.fromEntries(subjects.map(({ subject }) => [subject, []]));
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? subjects : subjects.toReversed();
    for (const subject of order) results[subject.subject].push(await run(subject));
  }
  return results;
}

/** Scales rounds, times and counts for `--quick`. */
function scaleOf(quick) {
  return {
    rounds: (count) => (quick ? 1 : count),
    ms: (ms) => (quick ? Math.max(100, ms / 5) : ms),
    count: (count) => (quick ? count / 5 : count),
  };
}

main(async () => {
  const options = readArguments(process.argv.slice(2));
  if (options.setup) await setUp();
  // Imported here because these modules need what the set-up installs and builds.
  const { scenarios } = await import('./scenarios/index.mjs');
  const { startCluster } = await import('./lib/redis-cluster.mjs');
  const { startRedis } = await import('./lib/redis-server.mjs');
  const { killWorkers, startWorker } = await import('./lib/workers.mjs');
  const { describeMachine, machineLine } = await import('./lib/machine.mjs');
  const { asText, cellsOf, cellsOfTargets } = await import('./lib/table.mjs');
  const report = await import('./lib/report.mjs');

  if (options.list) {
    for (const { name, title } of scenarios) console.log(`${name.padEnd(16)}${title}`);
    return;
  }
  const all = scenarios.map(({ name }) => name);
  const unknown = options.names.find((name) => !all.includes(name));
  if (unknown !== undefined) {
    throw new SetupError(`there is no scenario ${unknown}; there are ${all.join(', ')}`);
  }
  const chosen = scenarios.filter(
    ({ name }) => options.names.length === 0 || options.names.includes(name),
  );
  const folder = options.out ?? (options.quick ? undefined : RESULTS);

  const program = await requireRedis();
  const redis = await startRedis(program);
  /** Servers that scenarios have started. */
  const others = new Set();
  const cleanUp = () => {
    killWorkers();
    for (const other of others) other.stop();
    redis.stop();
  };
  onInterrupt(cleanUp);
  try {
    const machine = await describeMachine(redis.port);
    const command = ['npm run bench', ...shownArguments(options)].join(' ');
    const date = new Date().toISOString().slice(0, 10);
    console.log(machineLine(machine));
    if (machine.loadBefore > machine.cores / 4) {
      console.log(`Other processes are busy (load ${machine.loadBefore}): figures will vary.`);
    }
    const results = [];
    for (const scenario of chosen) {
      console.log(`\n\n══ ${scenario.title}\n${scenario.about}`);
      const workers = [];
      const { port } = redis;
      const start = async (subject, options) => {
        const worker = await startWorker({ port, scenario: scenario.name, subject, options });
        workers.push(worker);
        return worker;
      };
      const openCluster = async (options) => {
        const cluster = await startCluster(program, options);
        others.add(cluster);
        return cluster;
      };
      const openServer = async () => {
        const server = await startRedis(program);
        others.add(server);
        return server;
      };
      const { quick, long } = options;
      const scale = scaleOf(quick);
      const tools = { start, openCluster, openServer, port, interleave, scale, long };
      const found = await scenario.run(tools);
      for (const worker of workers) await worker.end();
      for (const other of others) other.stop();
      others.clear();
      await redis.flush();
      const { name, title, about } = scenario;
      const result = { scenario: name, title, about, command, date, machine, quick, ...found };
      for (const table of result.tables) console.log(`\n${asText(cellsOf(table))}`);
      for (const note of result.notes ?? []) console.log(`\n${note}`);
      if (folder !== undefined) report.writeScenario(folder, result);
      results.push(result);
    }
    const written = folder === undefined ? results : report.writeSummary(folder, all);
    if (folder === RESULTS) {
      report.writeDocument(DOCUMENT, written);
      report.writeCosts(COSTS, written);
    }
    console.log('\n\n══ Targets');
    console.log(asText(cellsOfTargets(report.sortTargets(results)), 2));
    if (folder !== undefined) console.log(`\nwritten to ${path.relative('.', folder) || '.'}`);
  } finally {
    cleanUp();
  }
});

function shownArguments({ names, quick, long }) {
  const args = [...names, ...(quick ? ['--quick'] : []), ...(long ? ['--long'] : [])];
  return args.length > 0 ? ['--', ...args] : [];
}
