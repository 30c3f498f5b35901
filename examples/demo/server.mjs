// One server of the demo: a PresenceClient of its own, the sockets of its users, their heartbeats.
// Runs as a child process that main.mjs talks to, or (without Redis) inside main.mjs itself.
import { pathToFileURL } from 'node:url';
import { PresenceClient } from 'rollcall';
import { BEAT_EVERY_MS, ROOMS, SWEEP_EVERY_MS, TTL_MS } from './script.mjs';

/**
 * @param {{ url: string, keyPrefix?: string }} options
 * @param {(event: object) => void} onEvent gets every presence event that this server sees
 */
export async function startServer({ url, keyPrefix }, onEvent) {
  const client = await PresenceClient.connect({
    url,
    ...(keyPrefix === undefined ? {} : { keyPrefix }),
    ttlMs: TTL_MS,
    sweepIntervalMs: SWEEP_EVERY_MS,
    logger: { warn: console.error, error: console.error },
  });

  // The sockets of this server, by connection id; `epoch` is what their join gave them.
  const sockets = new Map();
  // How far Redis's clock is behind ours, as far as its events show.
  let behind = Number.POSITIVE_INFINITY;

  await client.subscribe((event) => {
    behind = Math.min(behind, Date.now() - event.ts);
    onEvent(event);
  });
  await client.startReaper();
  const pulse = setInterval(async () => {
    const items = [...sockets]
      .filter(([, socket]) => !socket.silent)
      .map(([connId, { epoch }]) => ({ connId, epoch }));
    // Errors come as values. Here one only means that the script is ahead of the pulse.
    await client.heartbeatMany(items).catch(() => {});
  }, BEAT_EVERY_MS);

  return {
    /** Also what moves a user: the connection leaves wherever it was. */
    async join({ conn, user, room, state = {} }) {
      const { epoch } = await client.join({ roomId: room, userId: user, connId: conn, state });
      sockets.set(conn, { epoch, silent: false });
    },
    async update({ conn, state }) {
      const { epoch } = sockets.get(conn);
      await client.heartbeat({ connId: conn, epoch, patchState: state });
    },
    async silence({ conn }) {
      sockets.get(conn).silent = true;
    },
    async beat({ conn }) {
      await client.heartbeat({ connId: conn, epoch: sockets.get(conn).epoch });
    },
    async leave({ conn }) {
      sockets.delete(conn);
      await client.leave(conn);
    },
    /** The socket is gone for this server; the connection is another server's. */
    async drop({ conn }) {
      sockets.delete(conn);
    },
    /** Who is where, with the milliseconds since each was heard of. */
    async look() {
      const rooms = await Promise.all(ROOMS.map((room) => client.fetchRoomSnapshot(room)));
      const now = Date.now() - (Number.isFinite(behind) ? behind : 0);
      return rooms.flatMap((entries) =>
        entries
          .map((entry) => ({ ...entry, ageMs: Math.max(0, now - entry.lastSeenMs) }))
          .sort((a, b) => (a.connId < b.connId ? -1 : 1)),
      );
    },
    async heartbeats() {
      return client.metrics().heartbeats;
    },
    async stop() {
      clearInterval(pulse);
      await Promise.all([...sockets.keys()].map((conn) => client.leave(conn)));
      await client.close();
    },
  };
}

/** As a child process: one message in for each call, one out for its result. */
async function serveParent() {
  // Ctrl-C in a terminal reaches the whole group; it is main.mjs that ends us.
  process.on('SIGINT', () => {});
  // Without main.mjs there is nothing left to do.
  process.on('disconnect', () => process.exit());
  let server;
  process.on('message', async ({ id, name, args }) => {
    const answer = await call(name, args).then(
      (value) => ({ value }),
      ({ code, message }) => ({ error: { code, message } }),
    );
    if (process.connected) process.send({ id, ...answer });
    if (name === 'stop') process.disconnect();
  });
  async function call(name, args) {
    if (name !== 'start') return server[name](args);
    server = await startServer(args, (event) => process.connected && process.send({ event }));
    return { pid: process.pid };
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href && process.send) {
  serveParent();
}
