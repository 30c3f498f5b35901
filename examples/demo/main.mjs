// Shows Rollcall at its job: two server processes on one Redis, simulated users that join, move,
// go silent and leave, and what both servers see of it. About 20 seconds; `--forever` goes on.
//
//   node examples/demo/main.mjs [--forever]
//
// REDIS_URL: the Redis to use (under a key prefix of the demo's own). Else a redis-server program
// (REDIS_SERVER_BIN, or on PATH) is started for the demo. Else everything runs in this process.
import { fork } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startRedis } from './redis.mjs';
import { openScreen } from './screen.mjs';
import { BEAT_EVERY_MS, SECONDS, STEPS } from './script.mjs';
import { startServer } from './server.mjs';
import { summary } from './summary.mjs';

const LOOK_EVERY_MS = 250;
/** What the script provokes. */
const REFUSED = {
  CONNECTION_NOT_FOUND: 'it has timed out and must join again',
  STALE_EPOCH: 'a newer join has taken the connection over',
};

const forever = process.argv.includes('--forever');
// Undone in reverse order, however the demo ends.
const undo = [];
let interrupted = false;

async function cleanUp() {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) await step();
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, async () => {
    if (interrupted) return;
    interrupted = true;
    await cleanUp().catch(() => {});
    process.exit(signal === 'SIGINT' && forever ? 0 : 1);
  });
}

/** Where the servers keep presence: `{ url, keyPrefix?, shown, inProcess }`. */
async function openStore() {
  const { REDIS_URL } = process.env;
  // Nothing of what is in somebody's Redis may be touched.
  const keyPrefix = `rollcall-demo:${process.pid}:`;
  if (REDIS_URL) return { url: REDIS_URL, keyPrefix, shown: 'on the Redis of REDIS_URL' };
  const redis = await startRedis();
  if (redis === undefined) {
    console.log('No Redis found: everything runs in this one process, on the in-process store.');
    return { url: 'memory://demo', shown: 'in one process', inProcess: true };
  }
  undo.push(redis.stop);
  return { url: redis.url, keyPrefix, shown: `on ${redis.url}` };
}

/** A server as a child process: each of its methods becomes a message and its answer. */
async function forkServer(options, onEvent) {
  const child = fork(fileURLToPath(new URL('./server.mjs', import.meta.url)), {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    // Not JSON, in which a patch would lose its `undefined`.
    serialization: 'advanced',
  });
  const gone = new Promise((resolve) => child.once('exit', resolve));
  const calls = new Map();
  child.on('message', ({ event, id, value, error }) => {
    if (event !== undefined) return onEvent(event);
    const { resolve, reject } = calls.get(id);
    calls.delete(id);
    if (error === undefined) resolve(value);
    else reject(Object.assign(new Error(error.message), { code: error.code }));
  });
  child.once('exit', () => {
    for (const { reject } of calls.values()) reject(new Error('a server of the demo has ended'));
  });
  let lastId = 0;
  const call = (name, args) =>
    new Promise((resolve, reject) => {
      lastId += 1;
      calls.set(lastId, { resolve, reject });
      child.send({ id: lastId, name, args }, (error) => error && reject(error));
    });
  undo.push(async () => {
    await Promise.race([call('stop').then(() => gone), gone, delay(4000)]).catch(() => {});
    child.kill('SIGKILL');
  });
  await call('start', options);
  return new Proxy(
    {},
    { get: (_, name) => (name === 'then' ? undefined : (args) => call(name, args)) },
  );
}

async function openServer(store, onEvent) {
  const { url, keyPrefix } = store;
  if (!store.inProcess) return forkServer({ url, keyPrefix }, onEvent);
  const server = await startServer({ url }, onEvent);
  undo.push(() => server.stop());
  return server;
}

/** Runs the script once; `look` keeps the table current in the meantime. */
async function playRound(servers, screen) {
  const began = Date.now();
  const until = (at) => delay(Math.max(0, began + at * 1000 - Date.now()));
  for (const { at, on, act, say, ...args } of STEPS) {
    await until(at);
    if (interrupted) return;
    screen.say(say);
    try {
      await servers[on][act](args);
    } catch (error) {
      const why = REFUSED[error.code];
      if (why === undefined) throw error;
      screen.say(`refused with ${error.code}: ${why}`);
      await servers[on].drop(args);
    }
  }
  await until(SECONDS);
}

async function main() {
  const store = await openStore();
  const seen = { A: [], B: [] };
  const servers = {};
  let screen;
  for (const name of ['A', 'B']) {
    servers[name] = await openServer(store, (event) => {
      if (!forever) seen[name].push(event);
      screen?.event(name, event);
    });
  }
  screen = openScreen({
    title: `Rollcall · two servers ${store.shown}`,
    silentFromMs: 1.6 * BEAT_EVERY_MS,
  });
  undo.push(() => screen.restore());

  const began = Date.now();
  let people = [];
  let looking = Promise.resolve();
  const look = async () => {
    people = await servers.A.look();
    screen.people(people);
  };
  const timer = setInterval(() => {
    looking = looking.then(look).catch(() => {});
  }, LOOK_EVERY_MS);
  undo.push(() => clearInterval(timer));

  do {
    await playRound(servers, screen);
  } while (forever && !interrupted);
  clearInterval(timer);
  await looking;
  await look();
  const heartbeats = (await servers.A.heartbeats()) + (await servers.B.heartbeats());
  const seconds = (Date.now() - began) / 1000;
  screen.end(summary(seen, { heartbeats, people, seconds }));
}

main()
  .catch((error) => {
    if (interrupted) return;
    console.error(`rollcall demo: ${error.message}`);
    process.exitCode = 1;
  })
  .finally(() => interrupted || cleanUp());
