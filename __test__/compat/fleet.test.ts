// Three Socket.IO server processes with an adapter between them, and clients on all of them (spec
// 10).
import type { PresenceEvent } from 'rollcall';
import type { Socket } from 'socket.io-client';
import { expect, onTestFinished, test } from 'vitest';
import { type Fixture, startFixture } from '../support/process.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { connected } from './services.js';

interface Client {
  id: string;
  socket: Socket;
  server: number;
  roomId: string;
  userId: string;
  received: PresenceEvent[];
}

const ROOMS = ['a', 'b', 'c'];

async function startServers(url: string, ...args: string[]): Promise<Fixture<{ port: number }>[]> {
  const servers = ROOMS.map(() =>
    startFixture<{ port: number }>('compat/fixtures/server.mjs', { args: [url, ...args] }),
  );
  onTestFinished(async () => {
    for (const server of servers) await server.kill();
  });
  await Promise.all(servers.map((server) => server.message(({ port }) => port > 0)));
  return servers;
}

async function open(servers: Fixture<{ port: number }>[], count: number): Promise<Client[]> {
  const opened: Socket[] = [];
  onTestFinished(() => {
    for (const socket of opened) socket.close();
  });
  return Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const server = i % servers.length;
      const port = servers[server]?.messages[0]?.port;
      const socket = await connected(`http://127.0.0.1:${port}`, opened);
      socket.io.reconnection(false);
      // Every room has clients on every server, and every user has two connections.
      const roomId = ROOMS[Math.floor(i / servers.length) % ROOMS.length] ?? '';
      const client = { id: socket.id ?? '', socket, server, roomId, userId: `u${i >> 1}` };
      const received: PresenceEvent[] = [];
      socket.on('presence:event', (event) => received.push(event));
      return { ...client, received };
    }),
  );
}

/** A text for each event that is unique to it. */
function lines(events: PresenceEvent[]): string[] {
  return events.map(({ type, connId, epoch, state }) =>
    [type, connId, epoch, JSON.stringify(state)].join(' '),
  );
}

test('10: each client receives each presence:event of its room exactly once', async () => {
  await using redis = await startRedis();
  const servers = await startServers(redis.url);
  const clients = await open(servers, 36);
  const random = createRandom();

  await Promise.all(
    clients.map(async ({ socket, roomId, userId }) => {
      const ack = await socket.emitWithAck('presence:join', { roomId, userId, state: { n: 0 } });
      expect(ack).toMatchObject({ ok: true, self: { connId: socket.id } });
    }),
  );
  // From here on, all clients are in their rooms and receive all events. Earlier events are not
  // compared, because the clients subscribed at different times.
  const marker = 'marked';
  for (const roomId of ROOMS) {
    const client = clients.find((one) => one.roomId === roomId);
    await client?.socket.emitWithAck('presence:heartbeat', { patchState: { marker } });
  }
  const since = ({ received }: Client) => {
    const at = received.findIndex((event) => (event.state as { marker?: string } | null)?.marker);
    return at < 0 ? [] : received.slice(at + 1);
  };
  await eventually(() => {
    for (const client of clients) expect(since(client).length).toBe(0);
    for (const { received } of clients) {
      expect(lines(received).filter((line) => line.includes(marker))).toHaveLength(1);
    }
  });

  const expected = new Map(ROOMS.map((room) => [room, [] as string[]]));
  const expectLine = (client: Client, type: string, epoch: number, state: unknown) =>
    expected.get(client.roomId)?.push([type, client.id, epoch, JSON.stringify(state)].join(' '));
  // All clients send patches at once; some patches change nothing.
  await Promise.all(
    clients.map(async (client, i) => {
      for (let n = 1; n <= 10; n++) {
        const same = random.chance(0.3);
        const patchState = same ? {} : { n };
        const ack = await client.socket.emitWithAck('presence:heartbeat', { patchState });
        expect(ack).toMatchObject({ ok: true, changed: !same });
        const marked = clients.findIndex(({ roomId }) => roomId === client.roomId) === i;
        if (!same) {
          expectLine(client, 'update', ack.epoch, { n, ...(marked ? { marker } : {}) });
        }
      }
    }),
  );
  // Some clients leave, some disconnect, and one server is killed with all of its clients.
  const stay: Client[] = [];
  const gone: [Client, string][] = [];
  for (const client of clients) {
    if (client.server === 2) {
      gone.push([client, 'timeout']);
    } else if (random.chance(0.25)) {
      if (random.chance(0.5)) await client.socket.emitWithAck('presence:leave');
      else client.socket.close();
      gone.push([client, 'left']);
    } else {
      stay.push(client);
    }
  }
  await servers[2]?.kill();
  const heartbeat = setInterval(() => {
    for (const { socket } of stay) socket.emit('presence:heartbeat', {});
  }, 500);
  onTestFinished(() => clearInterval(heartbeat));

  const updates = (events: PresenceEvent[]) => events.filter(({ type }) => type === 'update');
  const leaves = (events: PresenceEvent[]) => events.filter(({ type }) => type === 'leave');
  await eventually(
    () => {
      for (const client of stay) {
        const ofRoom = gone.filter(([{ roomId }]) => roomId === client.roomId);
        expect(leaves(since(client)).length).toBeGreaterThanOrEqual(ofRoom.length);
      }
    },
    { timeoutMs: 15_000 },
  );
  for (const client of stay) {
    const events = since(client);
    expect(lines(updates(events)).sort()).toEqual(expected.get(client.roomId)?.toSorted());
    const seen = leaves(events).map((event) => [
      event.connId,
      event.type === 'leave' ? event.reason : '',
    ]);
    const left = gone
      .filter(([{ roomId }]) => roomId === client.roomId)
      .map(([{ id }, reason]) => [id, reason]);
    expect(seen.sort()).toEqual(left.sort());
  }
  // All clients of a room have received the same events in the same order, on every server.
  for (const roomId of ROOMS) {
    const [first, ...rest] = stay.filter((client) => client.roomId === roomId);
    if (first) for (const other of rest) expect(lines(since(other))).toEqual(lines(since(first)));
  }
}, 60_000);

test('negative control: a bridge that broadcasts emits each event once per server', async () => {
  await using redis = await startRedis();
  const servers = await startServers(redis.url, 'everywhere');
  const [one, two] = await open(servers, 2);
  const join = (client: Client | undefined) =>
    client?.socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
  await join(one);
  await join(two);
  await eventually(() => {
    const joins = one?.received.filter(({ connId }) => connId === two?.id) ?? [];
    expect(joins).toHaveLength(servers.length);
  });
});
