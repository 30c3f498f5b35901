// Runs the same calls of the service and the same events of a socket on two implementations, each
// on its own database: the reference, which stands in for the legacy implementation
// (../reference/), and Rollcall. The test compares results, errors, events in Redis and events on a
// socket. The tables below list every difference with its line in
// docs/guide/migrating-differences.md. An entry without a difference fails the test, as a missing
// entry does.
import { readFileSync } from 'node:fs';
import { Redis } from 'ioredis';
import { registerPresenceHandlers } from 'rollcall';
import type { Socket as ClientSocket } from 'socket.io-client';
import { expect, onTestFinished, test } from 'vitest';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { registerReferenceHandlers } from '../reference/handlers.js';
import { ReferencePresenceService } from '../reference/service.js';
import type { Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { SERVICE_CALLS, SOCKET_EVENTS, type Step } from './differential-steps.js';
import { OPTIONS, type SocketServer, serviceOn, socketServer } from './services.js';

interface Side {
  redis: Redis;
  /** All messages that were published since the last call. */
  published(): Promise<unknown[]>;
}

/** A separate database, with a subscriber to all events. */
async function side(): Promise<Side> {
  const server = await startRedis();
  const [redis, ear] = [new Redis(server.url), new Redis(server.url)];
  onTestFinished(async () => {
    redis.disconnect();
    ear.disconnect();
    await server.stop();
  });
  let received: [channel: string, message: string][] = [];
  await ear.psubscribe('prs:{room:*}:events', 'prs:{chan:*}:meta_events', 'marker');
  ear.on('pmessage', (_pattern, channel, message) => received.push([channel, message]));
  let markers = 0;
  const published = async () => {
    const marker = `${++markers}`;
    await redis.publish('marker', marker);
    await eventually(() =>
      received.some(([channel, text]) => channel === 'marker' && text === marker),
    );
    const events = received.filter(([channel]) => channel !== 'marker');
    received = [];
    return events.map(([channel, message]) => [channel, JSON.parse(message)]);
  };
  return { redis, published };
}

/**
 * The outcome of a step without the values that always differ: times, epochs and ids of sockets.
 */
function comparable(value: unknown, names: Map<string, string>): unknown {
  const text = JSON.stringify(value, (_key, field) => {
    if (typeof field === 'number' && field > 1e12 && field < 1e15) return '<time>';
    if (typeof field === 'string') return names.get(field) ?? field;
    return field === undefined ? '<undefined>' : field;
  });
  const plain = JSON.parse(text.replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '<iso>'));
  return sorted(plain);
}

/** The members of a room have no order. */
function sorted(value: Untyped): unknown {
  if (Array.isArray(value)) {
    const items: Untyped[] = value.map(sorted);
    return items.every((item) => typeof item?.connId === 'string')
      ? items.sort((a: Untyped, b: Untyped) => (a.connId < b.connId ? -1 : 1))
      : items;
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, sorted(field)]));
}

async function outcome<Subject>(step: Step<Subject>, subject: Subject): Promise<unknown> {
  try {
    return { resolved: await step.run(subject) };
  } catch (error) {
    const { message, code } = error as { message: string; code?: string };
    return { rejected: code === undefined ? message : { message, code } };
  }
}

type Outcomes = Record<string, unknown>;

/**
 * Removes the fields that Rollcall adds everywhere, and the messages of refusals without an own
 * code: each implementation names the field in its own words.
 */
function withoutAdditions(outcome: Untyped): unknown {
  const text = JSON.stringify(outcome, (key, field) => {
    if (key === 'reason' || key === 'current') return undefined;
    if (typeof field !== 'object' || field === null || Array.isArray(field)) return field;
    if (typeof field.connId === 'string' && 'lastSeenMs' in field) {
      const { roomId: _, ...entry } = field;
      return entry;
    }
    if (field.ok === false && (field.code ?? 'INVALID_ARGUMENT') === 'INVALID_ARGUMENT') {
      return { ok: false, error: PROTOCOL.has(field.error) ? field.error : '<refused>' };
    }
    return field;
  });
  return JSON.parse(text);
}

/** Messages that are part of the protocol. */
const PROTOCOL: ReadonlySet<unknown> = new Set(['Socket already joined a different presence room']);

const ADDITIONS = [
  '`leave` events have a `reason`',
  'Entries of a snapshot have a `roomId`',
  'a conflict carries the record as it is',
  'Refusals of a payload have a `code`, `INVALID_ARGUMENT`, and a message that names the field',
];

const IDS = 'Ids are texts that are not empty';
const STATES = 'A state and a patch are JSON objects';
const MOVES = 'A connection that joins another room leaves the first one, with a `leave` event';
const NO_EPOCH = 'An epoch that is no number';
const EMPTIED = 'An emptied record exists';
const TEXTS = 'Revisions that are texts are numbers';
const NO_REVISION = 'Revisions that are no whole numbers';
const COLON = 'A `channelType` with a colon is refused';
const HEARTBEATS = 'A heartbeat over the socket that is refused is acknowledged with `ok: false`';

/** The calls that differ, each with its line in the document. */
const SERVICE_DIFFERENCES: Record<string, string> = {
  'join with a connection id that ends in :state': 'ids that end in `:state` are refused',
  'join with a user id that is a number': IDS,
  'join without a room': IDS,
  'join with an empty connection id': IDS,
  'snapshot of a room without a name': IDS,
  'leave without a connection': IDS,
  'join with an array as state': STATES,
  'array as patch': STATES,
  'heartbeat with epoch NaN': NO_EPOCH,
  'heartbeat with epoch "abc"': NO_EPOCH,
  'heartbeat with an epoch two days ahead':
    'A heartbeat whose epoch is more than a day ahead of the server',
  'join of another room': MOVES,
  'snapshot of the room that it left by that': MOVES,
  'join under another user': MOVES,
  'update of an emptied record': EMPTIED,
  'update of an emptied record with another revision': EMPTIED,
  'set with the revision as text': TEXTS,
  'update with the item’s revision as text': TEXTS,
  'set with an item’s revision as text': TEXTS,
  'set with a revision that is not a number': NO_REVISION,
  'set with a fraction as revision': NO_REVISION,
  'set with an object as value': 'A value that is an object or an array is refused',
  'set with a key that is a number': 'A key that is a number is a text in the event',
  'set with the key __proto__': 'A key named `__proto__` is a key like any other',
  'set without a name of the actor': 'An actor without a name (`""`) is none',
  'update of items that were stored in other forms': 'Items in other forms stay as they are',
  'get of items that are not JSON': 'Items that are no JSON object fail with `CORRUPT_DATA`',
  'set with a colon in the type': COLON,
};

/** The socket events that differ, each with its line in the document. */
const SOCKET_DIFFERENCES: Record<string, string> = {
  'heartbeat before any join': HEARTBEATS,
  'heartbeat with an older epoch': HEARTBEATS,
  'heartbeat with epoch null': HEARTBEATS,
  'heartbeat after the leave': HEARTBEATS,
  'update without items': 'An update without items is refused by the service',
  'set with a colon in the type': COLON,
};

const plain = (text: string) => text.replaceAll(/\s+/g, ' ');
const migrating = plain(readFileSync(inRoot('docs/guide/migrating-differences.md'), 'utf8'));

function compare(
  legacy: Outcomes,
  rollcall: Outcomes,
  listed: Readonly<Record<string, string>>,
): void {
  const different: Record<string, { legacy: unknown; rollcall: unknown }> = {};
  for (const name of Object.keys(legacy)) {
    const [before, after] = [legacy[name], rollcall[name]].map(withoutAdditions);
    if (!isEqual(before, after)) different[name] = { legacy: before, rollcall: after };
  }
  for (const [name, found] of Object.entries(different)) {
    expect(listed, `${name} differs: ${JSON.stringify(found, null, 1)}`).toHaveProperty([name]);
  }
  for (const name of Object.keys(listed)) {
    expect(different, `${name} is listed, and is the same`).toHaveProperty([name]);
  }
}

function isEqual(a: unknown, b: unknown): boolean {
  try {
    expect(a).toEqual(b);
    return true;
  } catch {
    return false;
  }
}

test('calls of the service', async () => {
  const run = async (make: (redis: Redis) => unknown): Promise<Outcomes> => {
    const { redis, published } = await side();
    const world = { redis, service: make(redis), kept: {} };
    const outcomes: Outcomes = {};
    for (const step of SERVICE_CALLS) {
      const result = await outcome(step, world);
      outcomes[step.name] = comparable({ result, events: await published() }, new Map());
    }
    return outcomes;
  };
  const legacy = await run((redis) => new ReferencePresenceService(redis, OPTIONS));
  const rollcall = await run((redis) => serviceOn(redis));
  expect(SERVICE_CALLS.length).toBeGreaterThanOrEqual(80);
  expect(Object.keys(legacy)).toHaveLength(SERVICE_CALLS.length);
  compare(legacy, rollcall, SERVICE_DIFFERENCES);
});

test('events of a socket', async () => {
  const unlimited = Number.POSITIVE_INFINITY;
  const quotas = {
    joinsPerSecond: unlimited,
    patchesPerSecond: unlimited,
    metadataPerSecond: unlimited,
  };
  const run = async (serve: (sockets: SocketServer, redis: Redis) => Promise<void>) => {
    const { redis, published } = await side();
    const sockets = await socketServer();
    await serve(sockets, redis);
    const names = new Map<string, string>();
    let socket: ClientSocket;
    let received: unknown[] = [];
    const open = async () => {
      socket = await sockets.connect();
      names.set(socket.id as string, `socket ${names.size + 1}`);
      for (const event of ['presence:event', 'metadata:event']) {
        socket.on(event, (payload) => received.push([event, payload]));
      }
    };
    await open();
    const world = {
      redis,
      kept: {},
      emit: (event: string, payload: unknown) => socket.timeout(5000).emitWithAck(event, payload),
      reconnect: async () => {
        const { id } = socket;
        socket.disconnect();
        await eventually(async () => expect(await redis.exists(`prs:conn:${id}`)).toBe(0));
        await open();
      },
    };
    const outcomes: Outcomes = {};
    for (const step of SOCKET_EVENTS) {
      const result = await outcome(step, world);
      const events = await published();
      outcomes[step.name] = comparable({ result, events, received: await settled() }, names);
      received = [];
    }
    return outcomes;

    /**
     * All events of the socket so far: events emitted before an acknowledgement arrive before it.
     */
    async function settled(): Promise<unknown[]> {
      const of = socket;
      const rooms: Set<string> =
        sockets.io.sockets.sockets.get(of.id as string)?.rooms ?? new Set();
      const room = [...rooms].find((name) => name !== of.id);
      if (room !== undefined) {
        const done = new Promise((resolve) => of.once('settled', resolve));
        const channel = `prs:{room:${room}}:events`;
        const marker = { type: 'update', roomId: room, userId: 'marker', connId: 'marker' };
        await redis.publish(channel, JSON.stringify({ ...marker, state: {}, ts: 1, epoch: 1 }));
        await eventually(() => received.some(isMarker));
        sockets.io.to(of.id as string).emit('settled');
        await done;
        await published();
      }
      // In both implementations it is a race whether a socket receives its own leave.
      return received.filter((event) => !isMarker(event) && !isOwnLeave(event, of.id));
    }
  };
  const isOwnLeave = ([, { type, connId }]: Untyped, id: unknown) =>
    type === 'leave' && connId === id;
  const isMarker = (event: Untyped) => event[1]?.connId === 'marker';
  const legacy = await run(async ({ io }, redis) => {
    const service = new ReferencePresenceService(redis, OPTIONS);
    onTestFinished(() => service.stop());
    await registerReferenceHandlers(io, service);
  });
  const rollcall = await run(async ({ io }, redis) => {
    const service = serviceOn(redis);
    await service.createSocketBridge(io);
    registerPresenceHandlers({ io, redis, logger: {}, quotas }, service);
  });
  expect(SOCKET_EVENTS.length).toBeGreaterThanOrEqual(50);
  expect(Object.keys(legacy)).toHaveLength(SOCKET_EVENTS.length);
  compare(legacy, rollcall, SOCKET_DIFFERENCES);
});

test('docs/guide/migrating-differences.md has a line for every difference', () => {
  const all = [
    ...ADDITIONS,
    ...Object.values(SERVICE_DIFFERENCES),
    ...Object.values(SOCKET_DIFFERENCES),
  ];
  for (const line of all)
    expect(migrating, 'docs/guide/migrating-differences.md').toContain(plain(line));
});
