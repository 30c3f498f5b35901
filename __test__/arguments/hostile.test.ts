// Arbitrary arguments never cause a foreign exception (spec 12): every thrown value and rejection
// is an Error with a code, and none contains a secret. The test is seeded and prints its seed.
import { inspect } from 'node:util';
import {
  ERROR_CODES,
  initPresence,
  PresenceClient,
  PresenceService,
  presenceKeys,
  registerPresenceHandlers,
} from 'rollcall';
import { expect, test } from 'vitest';
import { everythingIn, openClient, type Untyped } from '../support/clients.js';
import { createRandom, seed } from '../support/random.js';

const SECRET = 'hush-4711';
const thrown = () => {
  throw new TypeError(`thrown by a getter`);
};
const revoked = (target: object) => {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
};
const traps = (target: object) =>
  new Proxy(target, {
    get: thrown,
    has: thrown,
    ownKeys: thrown,
    getPrototypeOf: thrown,
    getOwnPropertyDescriptor: thrown,
  });
const throwing = (...names: string[]) =>
  Object.defineProperties(
    {},
    Object.fromEntries(names.map((name) => [name, { enumerable: true, get: thrown }])),
  );

/** Hostile values; created anew for each call. */
const VALUES: (() => unknown)[] = [
  () => undefined,
  () => null,
  () => 5n,
  () => Symbol('s'),
  () => Number.NaN,
  () => -0,
  () => '',
  () => '\ud800',
  () => () => {},
  () => [],
  () => [undefined, null, 5n],
  () => revoked({}),
  () => revoked([]),
  () => revoked(() => {}),
  () => traps({}),
  () => traps([]),
  () => Object.create(null),
  () => ({ toJSON: thrown }),
  () => ({ toString: thrown, valueOf: thrown }),
  () => ({ [Symbol.toPrimitive]: thrown }),
  () => throwing('roomId', 'connId', 'options', 'url', 'to', 'on', 'length'),
  () => ({ a: 5n }),
  () => new Date(Number.NaN),
  () => new Proxy([], { get: thrown }),
];
const FIELDS = [
  'roomId',
  'userId',
  'connId',
  'state',
  'patchState',
  'epoch',
  'snapshot',
  'data',
  'options',
  'channelName',
  'channelType',
  'actorUserId',
  'fencingToken',
  'ownerId',
  'ttlMs',
  'waitMs',
  'signal',
  'name',
  'maxBuffered',
  'logger',
  'url',
  'tls',
  'sentinel',
  'locks',
  'limits',
  'stateCompression',
  'client',
  'io',
  'redis',
  'bridge',
  'optimizations',
  'startupNodes',
  'isCluster',
  'isOpen',
  'sentinels',
  'socket',
  'host',
  'port',
  'password',
  'keyPrefix',
  'reaperIntervalMs',
  'eventName',
  'adapter',
  'unknown',
];

const fits = {
  roomId: 'r',
  userId: 'u',
  connId: 'c',
  channelName: 'n',
  channelType: 't',
  ownerId: 'u',
};
const emitter = { to: () => ({ emit: () => {} }), on: () => {}, off: () => {} };

test('18: arbitrary arguments cause no foreign exception', async () => {
  const { pick } = createRandom();
  const client: Untyped = await openClient('memory://');
  const service: Untyped = new PresenceService('memory://', { logger: {} });
  const Service: Untyped = PresenceService;
  const init: Untyped = initPresence;
  const register: Untyped = registerPresenceHandlers;
  const connect: Untyped = PresenceClient.connect;
  const client_: Untyped = PresenceClient;
  const calls: [string, (value: unknown, options: Untyped) => unknown][] = [
    ['connect', (value) => connect(value)],
    ['connect', (_, options) => connect({ ...options, logger: options.logger ?? {} })],
    ['new PresenceClient', (value) => new client_(value)],
    ['join', (value) => client.join(value)],
    ['join', (_, options) => client.join({ ...fits, ...options })],
    ['heartbeat', (value) => client.heartbeat(value)],
    ['heartbeat', (_, { connId = 'c', ...more }) => client.heartbeat({ connId, ...more })],
    ['heartbeatMany', (value) => client.heartbeatMany(value)],
    ['heartbeatMany', (value) => client.heartbeatMany([value, { connId: value }])],
    ['leave', (value) => client.leave(value)],
    ['getEpoch', (value) => client.getEpoch(value)],
    ['fetchRoomSnapshot', (value) => client.fetchRoomSnapshot(value)],
    ['getUserPresence', (value) => client.getUserPresence(value)],
    ['subscribe', (value) => client.subscribe(value, value)],
    ['subscribe', (value) => client.subscribe(() => {}, { roomId: value })],
    ['events', (value) => client.events(value).return()],
    ['on', (value) => client.on(value, value)],
    ['on', (value) => client.on('state', value)],
    ['metadata.get', (value) => client.metadata.get(value)],
    ...['set', 'update', 'remove'].map((name): [string, (v: unknown, o: Untyped) => unknown] => [
      `metadata.${name}`,
      (value, { channelName, channelType, data, options, actorUserId }) =>
        client.metadata[name]({
          channelName: channelName ?? 'n',
          channelType: channelType ?? 't',
          data: data ?? [value, { key: value }],
          options,
          actorUserId,
        }),
    ]),
    ['metadata.subscribe', (value) => client.metadata.subscribe(() => {}, value)],
    ['locks.acquire', (value, options) => client.locks.acquire(value, options)],
    [
      'locks.acquire',
      (_, { ttlMs, waitMs, signal }) =>
        client.locks.acquire('l', { ownerId: 'u', ttlMs, signal, waitMs: waitMs ?? 0 }),
    ],
    ['locks.inspect', (value) => client.locks.inspect(value)],
    ['locks.revoke', (value) => client.locks.revoke(value)],
    ['locks.subscribe', (value) => client.locks.subscribe(() => {}, value)],
    ['new PresenceService', (value) => new Service(value, { logger: {} })],
    ['new PresenceService', (value) => new Service('memory://', value)],
    ['new PresenceService', (_, options) => new Service({ options }, { logger: {} })],
    ['new PresenceService', (_, options) => new Service({ isOpen: true, options }, {})],
    [
      'new PresenceService',
      (value, options) =>
        new Service({ isCluster: true, startupNodes: [value, options], options }, {}),
    ],
    ['service.join', (value) => service.join(value)],
    ['service.heartbeat', (value) => service.heartbeat(value)],
    ['service.setChannelMetadata', (value) => service.setChannelMetadata(value)],
    [
      'service.setChannelMetadata',
      (_, { data, options }) =>
        service.setChannelMetadata({ channelName: 'n', channelType: 't', data, options }),
    ],
    ['service.getChannelMetadata', (value) => service.getChannelMetadata(value)],
    ['service.subscribe', (value) => service.subscribe(value)],
    ['createSocketBridge', (value) => service.createSocketBridge(value, value)],
    ['createSocketBridge', (value) => service.createSocketBridge(emitter, value)],
    ['registerPresenceHandlers', (value) => register(value, service)],
    ['registerPresenceHandlers', (_, options) => register(options, service)],
    ['initPresence', (value) => init(value)],
    [
      'initPresence',
      async (_, options) => {
        const handle = init({ io: emitter, redis: 'memory://', logger: {}, ...options });
        handle.catch(() => {});
        await handle.dispose();
      },
    ],
    ...Object.values(presenceKeys)
      .filter((make) => typeof make === 'function')
      .map((make): [string, (v: unknown) => unknown] => [
        'presenceKeys',
        (v) => (make as Untyped)(v, v),
      ]),
  ];
  for (let round = 0; round < 1500; round++) {
    const [name, call] = pick(calls);
    const value = pick(VALUES)();
    const options: Record<string, unknown> = {};
    for (let i = 0; i < 2; i++) options[pick(FIELDS)] = pick(VALUES)();
    const failed = await (async () => call(value, options))().then(
      (result: Untyped) => {
        // Closes every client that a call opens.
        if (result instanceof PresenceClient) return result.close().then(() => undefined);
        return undefined;
      },
      (error: unknown) => ({ error }),
    );
    if (failed === undefined) continue;
    const where = `seed ${seed}, round ${round}: ${name}`;
    const { error } = failed as { error: Untyped };
    expect(error instanceof Error, `${where}: ${typeof error}`).toBe(true);
    expect(ERROR_CODES, `${where}: ${inspect(error)}`).toContain(error.code);
  }
  await service.stop();
});

test('18: errors contain no secret of a client or URL', () => {
  const Service: Untyped = PresenceService;
  const bad = [
    `redis://:${SECRET}@h:port`,
    `redis://:${SECRET}@h:99999`,
    `redis://:%${SECRET}@h`,
    `redis://:${SECRET}%@h`,
    `redis://:${SECRET}/x@h`,
    `rediss://u:${SECRET}@[::1`,
    `u:${SECRET}@h:x`,
    `redis://u:${SECRET}@h?family=${SECRET}`,
    `redis://u:${SECRET}@h/7`,
  ];
  const getter = {
    get options(): unknown {
      throw new Error(`cannot read ${SECRET}`);
    },
  };
  const sources: unknown[] = [
    ...bad.map((node) => ({ isCluster: true, startupNodes: [node], options: {} })),
    ...bad.map((node) => ({ isCluster: true, startupNodes: ['redis://h', node], options: {} })),
    getter,
    { options: { password: { [SECRET]: SECRET } } },
    { options: { password: `${SECRET}\ud800` } },
    { options: { host: `h@${SECRET}` } },
    { options: { port: SECRET } },
    { options: { db: SECRET } },
    { options: { sentinels: [{ host: `:${SECRET}@` }], name: 'm' } },
    { isOpen: true, options: { database: SECRET, password: SECRET } },
    { isOpen: true, options: { socket: { tls: true, pfx: SECRET } } },
  ];
  for (const [at, source] of sources.entries()) {
    let error: Untyped;
    try {
      new Service(source, { logger: {} });
    } catch (thrown) {
      error = thrown;
    }
    expect(ERROR_CODES, `case ${at}: ${inspect(error)}`).toContain(error?.code);
    const said = [everythingIn(error), inspect(error, { depth: 9, showHidden: true })].join('\n');
    // Stacks of errors contain the source of this test, so they are not checked.
    expect(said, `case ${at}`).not.toContain(SECRET);
  }
});
