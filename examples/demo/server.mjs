// One server of the demo: the page, Socket.IO with Rollcall's handlers, and what the page shows
// beside them (the lock on a topic, how many are in each room, metrics). Runs inside main.mjs, or
// as a child process of it.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { PresenceService, registerPresenceHandlers } from 'rollcall';
import { Server } from 'socket.io';
import { runBots } from './bots.mjs';
import { CHANNEL_TYPE, KEY_PREFIX, LOCK_MS, ROOMS, TOPICS, TTL_MS } from './settings.mjs';

const PAGE = path.join(import.meta.dirname, 'page');
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
};
const FIGURES_EVERY_MS = 1000;

/**
 * @param {{ url: string, store: string, node: number, port: number, bots: number[] }} options
 *   `store`: how what is at `url` is called on the page; `node`: the server's number, from 1; `bots`:
 *   the numbers of the simulated users whose connections are here
 * @param {(line: string) => void} onLine gets a line for each thing that happens
 */
export async function startServer({ url, store, node, port, bots }, onLine) {
  const logger = { warn: console.error, error: console.error };
  const service = new PresenceService(url, {
    ttlMs: TTL_MS,
    reaperIntervalMs: 500,
    logger,
    client: { keyPrefix: KEY_PREFIX },
  });
  const client = await service.client();
  let nodes = [];

  const web = createServer((request, response) => servePage(request, response));
  const io = new Server(web, { serveClient: true });
  registerPresenceHandlers({ io, logger }, service);
  const bridge = await service.createSocketBridge(io);
  service.startReaper();
  await seedTopics(client);

  io.on('connection', (socket) => {
    socket.emit('demo:hello', { node, nodes, store, rooms: ROOMS });
    // Rollcall's own handler takes the join; what is remembered here is for the lock.
    socket.on('presence:join', (joining) => {
      socket.data.at = { room: joining?.roomId, user: joining?.userId };
    });
    socket.on('demo:lock', async (...args) => {
      const ack = typeof args.at(-1) === 'function' ? args.pop() : () => {};
      try {
        ack({ ok: true, lock: await lockTopic(client, socket, args[0]) });
      } catch (error) {
        ack({ ok: false, error: error.message, code: error.code });
      }
    });
    socket.on('disconnect', () => socket.data.lock?.release().catch(() => {}));
  });
  await client.locks.subscribe(({ name, type, ownerId }) => {
    const room = name.slice(LOCK_PREFIX.length);
    const lock = type === 'acquired' ? { ownerId, msLeft: LOCK_MS } : null;
    io.local.to(room).emit('demo:lock', { room, type, ownerId, lock });
    onLine(line(room, ownerId, `topic lock ${type}`));
  });
  await client.subscribe((event) => {
    if (event.type === 'join') onLine(line(event.roomId, event.userId, 'joins'));
    if (event.type === 'leave') {
      onLine(line(event.roomId, event.userId, `leaves (${event.reason ?? 'no reason given'})`));
    }
  });
  await client.metadata.subscribe(({ channelName, majorRevision, authorUid }) => {
    onLine(line(channelName, authorUid ?? 'somebody', `sets the topic (rev ${majorRevision})`));
  });

  const figures = setInterval(() => sendFigures(client, io), FIGURES_EVERY_MS);
  const ending = new AbortController();
  const life = runBots(client, bots, ending.signal).catch(console.error);

  const address = await listen(web, port);
  return {
    url: `http://localhost:${address.port}`,
    /** The URLs of all servers, for the page's second user. */
    know: (urls) => {
      nodes = urls;
    },
    stop: async () => {
      ending.abort();
      clearInterval(figures);
      await life;
      await bridge.stop();
      // Sockets that are still open leave as they are closed; the store comes after them.
      await io.close();
      await service.stop();
    },
  };
}

const LOCK_PREFIX = 'topic:';

/** @returns who holds it afterwards, and for how long: `{ ownerId, msLeft }`, or `null` */
async function lockTopic(client, socket, action) {
  const { room, user } = socket.data.at ?? {};
  if (room === undefined) throw new Error('join a room first');
  const name = `${LOCK_PREFIX}${room}`;
  if (action === 'acquire') {
    // It shall end after the time that the page shows, whatever becomes of the tab.
    socket.data.lock = await client.locks.acquire(name, {
      ownerId: user,
      ttlMs: LOCK_MS,
      autoRenew: false,
    });
  } else if (action === 'release') {
    await socket.data.lock?.release();
    socket.data.lock = undefined;
  }
  const held = await client.locks.inspect(name);
  return held && { ownerId: held.ownerId, msLeft: held.ttlMs };
}

/** Each topic, unless a server before us has set it. */
async function seedTopics(client) {
  for (const [room, topic] of Object.entries(TOPICS)) {
    await client.metadata
      .set({
        channelType: CHANNEL_TYPE,
        channelName: room,
        data: [{ key: 'topic', value: topic }],
        options: { majorRevision: 0 },
      })
      .catch((error) => {
        if (error.code !== 'METADATA_CONFLICT') throw error;
      });
  }
}

async function sendFigures(client, io) {
  try {
    const rooms = await Promise.all(ROOMS.map((room) => client.fetchRoomSnapshot(room)));
    const counts = Object.fromEntries(
      rooms.map((entries, i) => [ROOMS[i], new Set(entries.map(({ userId }) => userId)).size]),
    );
    io.local.emit('demo:figures', { counts, metrics: client.metrics() });
  } catch (error) {
    // Redis is away: the page keeps what it has, until it is back.
    if (!['UNAVAILABLE', 'TIMEOUT', 'CLOSED'].includes(error.code)) console.error(error);
  }
}

function line(room, who, what) {
  return `  ${new Date().toLocaleTimeString('en-GB')}  ${room.padEnd(7)} ${who} ${what}`;
}

async function servePage(request, response) {
  const base = 'http://localhost';
  const { pathname } = new URL(URL.canParse(request.url, base) ? request.url : '/missing', base);
  const name = pathname === '/' ? 'index.html' : pathname.slice(1);
  const type = TYPES[path.extname(name)];
  // Only files of the page's own folder, which has no others below it.
  if (type === undefined || path.basename(name) !== name) {
    response.writeHead(404).end('not found');
    return;
  }
  try {
    const file = await readFile(path.join(PAGE, name));
    response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(file);
  } catch {
    response.writeHead(404).end('not found');
  }
}

/** On this port of the loopback, or on any free one if it is taken. */
function listen(web, port) {
  return new Promise((resolve, reject) => {
    web.once('error', (error) => {
      if (error.code !== 'EADDRINUSE' || port === 0) return reject(error);
      web.once('error', reject).listen(0, 'localhost', () => resolve(web.address()));
    });
    web.listen(port, 'localhost', () => resolve(web.address()));
  });
}

/** As a child process of main.mjs. */
function serveParent() {
  // Ctrl-C in a terminal reaches the whole group; it is main.mjs that ends us.
  process.on('SIGINT', () => {});
  let server;
  const stop = async () => {
    await server?.stop();
    process.exit();
  };
  process.on('disconnect', stop);
  process.on('message', async (message) => {
    if (message === 'stop') return stop();
    if (message.nodes !== undefined) return server.know(message.nodes);
    try {
      server = await startServer(message.options, (said) => process.send?.({ line: said }));
      process.send({ url: server.url });
    } catch (error) {
      process.send({ error: error.message });
    }
  });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href && process.send) {
  serveParent();
}
