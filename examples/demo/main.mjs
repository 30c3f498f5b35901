// Shows Rollcall at work: a Socket.IO server with one page (rooms, who is here, live cursors, a topic
// that several edit, a lock on it, the figures of metrics()), and a few simulated users.
//
//   node examples/demo/main.mjs [--nodes 3] [--port 3000] [--bots 4] [--seconds 20]
//
// --nodes    how many server processes. More than one share a Redis
// --port     of the first; the others take those after it. 0, or one that is taken: any free one
// --bots     how many simulated users there are
// --seconds  ends by itself after so long; else it goes on until Ctrl-C
//
// REDIS_URL: the Redis to use (under the prefix `rollcall-demo:`). Without it one process keeps
// everything in itself, and several start a redis-server of their own.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startRedis } from './redis.mjs';
import { startServer } from './server.mjs';
import { TTL_MS } from './settings.mjs';

const MOST_NODES = 8;

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '1' },
    port: { type: 'string', default: '3000' },
    bots: { type: 'string', default: '4' },
    seconds: { type: 'string' },
  },
});

/** Undone in reverse order, however the demo ends. */
const undo = [];
const ending = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => ending.abort());

function whole(name, least, most) {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new Error(`--${name} takes a whole number from ${least} to ${most}`);
  }
  return value;
}

/** Where the servers keep what they share, and how that is called on the page. */
async function openStore(nodes) {
  const { REDIS_URL } = process.env;
  if (REDIS_URL) return { url: REDIS_URL, store: 'your Redis' };
  if (nodes === 1) return { url: 'memory://demo', store: 'in-process store' };
  const redis = await startRedis();
  if (redis === undefined) {
    throw new Error('several servers need a Redis: install redis-server, or set REDIS_URL');
  }
  undo.push(redis.stop);
  return { url: redis.url, store: "a Redis of the demo's own" };
}

/** A server in a process of its own: the same as `startServer` gives. */
async function forkServer(options, onLine) {
  const child = fork(fileURLToPath(new URL('./server.mjs', import.meta.url)), {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const gone = once(child, 'exit');
  const started = new Promise((resolve, reject) => {
    child.on('message', ({ url, line, error }) => {
      if (url !== undefined) resolve(url);
      if (line !== undefined) onLine(line);
      if (error !== undefined) reject(new Error(error));
    });
    gone.then(() => reject(new Error('a server of the demo has ended')));
  });
  const stop = async () => {
    if (child.connected) child.send('stop');
    await Promise.race([gone, delay(4000, undefined, { ref: false })]);
    child.kill('SIGKILL');
  };
  undo.push(stop);
  child.send({ options });
  return { url: await started, know: (nodes) => child.send({ nodes }), stop };
}

async function main() {
  const count = whole('nodes', 1, MOST_NODES);
  const port = whole('port', 0, 65_535 - MOST_NODES);
  const bots = whole('bots', 0, 6);
  const seconds = values.seconds === undefined ? undefined : whole('seconds', 1, 86_400);
  const store = await openStore(count);

  const servers = [];
  for (let node = 1; node <= count; node++) {
    const options = {
      ...store,
      node,
      port: port === 0 ? 0 : port + node - 1,
      bots: Array.from({ length: bots }, (_, bot) => bot).filter((bot) => bot % count === node - 1),
    };
    // What one server sees, all see: one of them tells.
    const onLine = node === 1 ? (line) => console.log(line) : () => {};
    if (count === 1) {
      const server = await startServer(options, onLine);
      undo.push(server.stop);
      servers.push(server);
    } else {
      servers.push(await forkServer(options, onLine));
    }
  }
  const urls = servers.map(({ url }) => url);
  for (const server of servers) server.know(urls);

  console.log(`\nRollcall demo, ${store.store}. Open in a browser, best in two windows:\n`);
  for (const url of urls) console.log(`  ${url}`);
  console.log(`\nWhat happens (time to live ${TTL_MS / 1000} s; Ctrl-C ends the demo):\n`);
  await delay(seconds === undefined ? 2 ** 31 - 1 : 1000 * seconds, undefined, {
    signal: ending.signal,
  }).catch(() => {});
}

async function cleanUp() {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) await step();
}

main()
  .catch((error) => {
    console.error(`rollcall demo: ${error.message}`);
    process.exitCode = 1;
  })
  .finally(cleanUp);
