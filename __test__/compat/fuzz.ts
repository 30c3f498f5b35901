// A fuzz client for any Socket.IO server: random events with payloads of every type, requests
// without acknowledgements, duplicate packets, invalid packets, and connections that end at any
// time. The seed determines every choice.
import { setTimeout as delay } from 'node:timers/promises';
import { io as connectSocket, type Socket } from 'socket.io-client';
import type { Untyped } from '../support/clients.js';
import type { Random } from '../support/random.js';
import type { RedisServer } from '../support/redis.js';

export const OUR_EVENTS = [
  'presence:join',
  'presence:heartbeat',
  'presence:leave',
  'metadata:setChannel',
  'metadata:updateChannel',
  'metadata:removeChannel',
  'metadata:getChannel',
];

const FIELDS = ['roomId', 'userId', 'connId', 'state', 'patchState', 'epoch', 'channelName'];
const MORE_FIELDS = ['channelType', 'data', 'options', 'key', 'value', 'revision', 'lockName', 'x'];
const SOCKETS = 8;

export interface FuzzOptions {
  /** URL of the server. */
  url: string;
  steps: number;
  random: Random;
  /** Event names of the server; they are the most frequent ones. */
  events: readonly string[];
  /** Called between steps: checks the server and disturbs its Redis. */
  between?: () => void | Promise<void>;
}

/** Runs the client until all its sockets are closed. Resolves to the number of acknowledgements. */
export async function fuzz({ url, steps, random, events, between }: FuzzOptions): Promise<number> {
  const sockets: Socket[] = [];
  let acknowledged = 0;
  const open = () => {
    const socket = connectSocket(url, {
      transports: [random.chance(0.9) ? 'websocket' : 'polling'],
      forceNew: true,
      reconnectionDelay: 1,
      reconnectionDelayMax: 50,
      auth: random.chance(0.7) ? { user: random.pick(['u', 'v']) } : (value(random, 1) as Untyped),
    });
    socket.on('connect_error', () => {});
    sockets.push(socket);
  };
  const step = () => {
    if (sockets.length < SOCKETS && random.chance(0.3)) open();
    const at = random.int(0, sockets.length - 1);
    const socket = sockets[at];
    if (socket === undefined) return;
    const event = random.chance(0.9) ? random.pick(events) : name(random);
    const kind = random.int(0, 99);
    if (kind < 45) {
      socket.emit(event, ...payloads(random), () => {
        acknowledged += 1;
      });
    } else if (kind < 75) {
      socket.emit(event, ...payloads(random));
    } else if (kind < 82) {
      // The same packet with an acknowledgement id, twice.
      const packet = `42${random.int(0, 5)}${JSON.stringify([event, plain(random)])}`;
      raw(socket, packet);
      raw(socket, packet);
    } else if (kind < 86) {
      raw(socket, `42${random.int(0, 9)}["${event}",${deepText(random.pick([50, 150, 5000]))}]`);
    } else if (kind < 88) {
      raw(socket, random.pick(['4', '42', '42{"a":', '43["x"]', '45', '4é', '41', '40{}', 'x']));
    } else if (kind < 92) {
      // The connection breaks, and the client reconnects by itself.
      socket.io.engine?.close();
    } else if (kind < 96) {
      socket.disconnect();
      if (random.chance(0.5)) socket.connect();
    } else {
      socket.close();
      sockets.splice(at, 1);
    }
  };
  for (let done = 0; done < steps; done++) {
    step();
    await between?.();
    // Sometimes waits until the packets have arrived.
    if (random.chance(0.2)) await delay(random.int(0, 3));
  }
  for (const socket of sockets) socket.close();
  return acknowledged;
}

function raw(socket: Socket, packet: string): void {
  (socket.io.engine as Untyped)?.write(packet.slice(1));
}

function name(random: Random): string {
  return random.pick(['', '__proto__', 'constructor', 'message', 'presence:', 'x'.repeat(1000)]);
}

function payloads(random: Random): unknown[] {
  const count = random.pick([0, 1, 1, 1, 1, 1, 1, 1, 2]);
  return Array.from({ length: count }, () =>
    random.chance(0.6) ? plausible(random) : value(random, 4),
  );
}

/** A payload that a server accepts. */
function plausible(random: Random): unknown {
  const channel = { channelType: random.pick(['t', 'u']), channelName: random.pick(['r', 's']) };
  return {
    roomId: random.pick(['r', 's', 'r']),
    userId: random.pick(['u', 'v', '__proto__']),
    ...(random.chance(0.5) ? { state: { n: random.int(0, 9), s: plain(random) } } : {}),
    ...(random.chance(0.5) ? { patchState: { n: random.int(0, 9) } } : {}),
    ...(random.chance(0.2) ? { epoch: Date.now() + random.int(-1e9, 1e9) } : {}),
    ...channel,
    data: [{ key: random.pick(['k', 'l']), value: String(random.int(0, 9)) }],
    ...(random.chance(0.2) ? { [random.pick(FIELDS)]: value(random, 2) } : {}),
  };
}

/** Any JSON value. */
function plain(random: Random): unknown {
  return random.pick<unknown>([
    0,
    -1,
    1.5,
    1e308,
    '',
    'text',
    null,
    true,
    [],
    {},
    [[]],
    { a: [1] },
  ]);
}

/** Any value that Socket.IO can send. */
function value(random: Random, depth: number): unknown {
  const kind = random.int(0, depth > 0 ? 11 : 8);
  switch (kind) {
    case 0:
      return undefined;
    case 1:
      return Buffer.alloc(random.int(0, 2000), 7);
    case 2:
      return 'x'.repeat(random.pick([0, 1, 5000, 100_000]));
    case 3:
      return random.pick(['\ud800', '\0', '🙂', 'a:b', '*', '1']);
    case 9: {
      const object: Record<string, unknown> = {};
      for (let i = random.int(0, 4); i > 0; i--) {
        object[random.pick([...FIELDS, ...MORE_FIELDS])] = value(random, depth - 1);
      }
      return object;
    }
    case 10:
      return Array.from({ length: random.int(0, 4) }, () => value(random, depth - 1));
    case 11:
      return Object.fromEntries(Array.from({ length: 500 }, (_, i) => [`k${i}`, i]));
    default:
      return plain(random);
  }
}

function deepText(levels: number): string {
  return `{"roomId":"r","userId":"u","state":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}}`;
}

/** Stops, kills and starts a Redis, each state for a number of steps. */
export function disturbance(server: RedisServer, random: Random) {
  let state: 'running' | 'stopped' | 'killed' = 'running';
  let steps = 0;
  let until = random.int(100, 300);
  const end = async () => {
    if (state === 'stopped') server.resume();
    if (state === 'killed') await server.start();
    state = 'running';
  };
  return {
    /** Makes the server run again, in any state. */
    end,
    step: async () => {
      if (++steps < until) return;
      if (state !== 'running') {
        await end();
        until = steps + random.int(100, 300);
        return;
      }
      state = random.pick(['stopped', 'killed'] as const);
      until = steps + random.int(20, 150);
      if (state === 'stopped') server.pause();
      else await server.kill();
    },
  };
}
