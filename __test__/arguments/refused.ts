// Calls that every public method refuses, as a table for the tests of this folder.
import type { Untyped } from '../support/clients.js';

/** One call that must be refused, and the parts that its message must contain. */
export interface Refused {
  title: string;
  call: (client: Untyped) => Promise<unknown>;
  names: string[];
}

const cyclic: Record<string, unknown> = {};
cyclic.self = { deeper: cyclic };

let deep: unknown = {};
for (let level = 0; level < 100_000; level++) deep = { deep };

export const NO_ID: [string, unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 5],
  ['a bigint', 5n],
  ['a boolean', true],
  ['a symbol', Symbol('id')],
  ['a function', () => 'id'],
  ['an object', { toString: () => 'id' }],
  ['an array', ['id']],
  ['a String object', new String('id')],
  ['empty', ''],
  ['half a surrogate pair', 'a\ud800b'],
];

export const TOO_LONG: [string, string, string][] = [
  ['4097 bytes of ASCII', 'x'.repeat(4097), '4097'],
  ['4098 bytes of UTF-8 in 2049 characters', 'ä'.repeat(2049), '4098'],
];

/** Values that are neither a state nor a patch. */
const NO_STATE: [string, unknown][] = [
  ['null', null],
  ['a number', 5],
  ['a string', '{}'],
  ['an array', [{}]],
  ['a symbol', Symbol('state')],
  ['a function', () => ({})],
  ['a bigint', 5n],
  ['a Date', new Date(0)],
  ['a state with a BigInt in it', { count: 5n }],
  ['a cyclic state', cyclic],
  ['a state nested 100 000 deep', deep],
  [
    'a getter that throws',
    {
      get mic() {
        throw new Error('no microphone');
      },
    },
  ],
  [
    'a getter that throws a value other than an Error',
    {
      get mic() {
        throw Symbol('no microphone');
      },
    },
  ],
  [
    'a toJSON that throws',
    {
      toJSON() {
        throw new Error('no JSON');
      },
    },
  ],
  ['a toJSON that returns text', { toJSON: () => '{}' }],
  ['a toJSON that returns an array', { toJSON: () => [] }],
  ['a toJSON that returns nothing', { toJSON: () => undefined }],
  [
    'a Proxy that refuses',
    new Proxy(
      {},
      {
        ownKeys() {
          throw new Error('no keys');
        },
      },
    ),
  ],
];

const NO_EPOCH: [string, unknown][] = [
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['negative', -1],
  ['a fraction', 1.5],
  ['2^53', 2 ** 53],
  ['a string', '5'],
  ['a bigint', 5n],
  ['null', null],
  ['an object', {}],
  ['a Date', new Date()],
];

export const NO_OPTIONS: [string, unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 5],
  ['a string', 'room'],
  ['an array', []],
  ['a function', () => {}],
  ['a symbol', Symbol('options')],
];

const JOIN = { roomId: 'r', userId: 'u', connId: 'c' };

/** The given options with one property whose getter throws. */
export function withThrowing(options: object, field: string): object {
  return Object.defineProperty({ ...options }, field, {
    enumerable: true,
    get() {
      throw new Error('not to be read');
    },
  });
}

function* ids(): Generator<Refused> {
  const places: [string, string, (client: Untyped, id: unknown) => Promise<unknown>][] = [
    ['join', 'roomId', (client, roomId) => client.join({ ...JOIN, roomId })],
    ['join', 'userId', (client, userId) => client.join({ ...JOIN, userId })],
    ['join', 'connId', (client, connId) => client.join({ ...JOIN, connId })],
    ['heartbeat', 'connId', (client, connId) => client.heartbeat({ connId })],
    [
      'heartbeat with a patch',
      'connId',
      (client, connId) => client.heartbeat({ connId, patchState: {} }),
    ],
    ['leave', 'connId', (client, connId) => client.leave(connId)],
    ['getEpoch', 'connId', (client, connId) => client.getEpoch(connId)],
    ['fetchRoomSnapshot', 'roomId', (client, roomId) => client.fetchRoomSnapshot(roomId)],
    ['getUserPresence', 'userId', (client, userId) => client.getUserPresence(userId)],
    ['subscribe', 'roomId', (client, roomId) => client.subscribe(() => {}, { roomId })],
    ['events', 'roomId', (client, roomId) => client.events({ roomId }).next()],
    ['locks.acquire', 'name', (client, name) => client.locks.acquire(name, { ownerId: 'u' })],
    ['locks.acquire', 'ownerId', (client, ownerId) => client.locks.acquire('l', { ownerId })],
    ['locks.inspect', 'name', (client, name) => client.locks.inspect(name)],
    ['locks.revoke', 'name', (client, name) => client.locks.revoke(name)],
    ['locks.subscribe', 'name', (client, name) => client.locks.subscribe(() => {}, { name })],
  ];
  for (const [method, field, call] of places) {
    const optional = ['subscribe', 'events', 'locks.subscribe'].includes(method);
    for (const [what, id] of NO_ID) {
      if (optional && id === undefined) continue;
      const title = `${method}: ${field} is ${what}`;
      yield { title, call: (client) => call(client, id), names: [field] };
    }
    for (const [what, id, size] of TOO_LONG) {
      const title = `${method}: ${field} is ${what}`;
      yield { title, call: (client) => call(client, id), names: [field, size, '4096'] };
    }
    if (field === 'connId') {
      const title = `${method}: connId ends in ":state" (2.2)`;
      yield { title, call: (client) => call(client, 'x:state'), names: [field, ':state'] };
    }
  }
}

function* states(): Generator<Refused> {
  for (const [what, state] of NO_STATE) {
    yield {
      title: `join: state is ${what}`,
      call: (client) => client.join({ ...JOIN, state }),
      names: ['state'],
    };
    yield {
      title: `heartbeat: patchState is ${what}`,
      call: (client) => client.heartbeat({ connId: 'c', patchState: state }),
      names: ['patchState'],
    };
  }
  const big = { text: 'x'.repeat(1024 * 1024) };
  const size = String(JSON.stringify(big).length);
  yield {
    title: 'join: state is longer than 1 MiB',
    call: (client) => client.join({ ...JOIN, state: big }),
    names: ['state', size, '1048576'],
  };
  yield {
    title: 'heartbeat: patchState is longer than 1 MiB',
    call: (client) => client.heartbeat({ connId: 'c', patchState: big }),
    names: ['patchState', size, '1048576'],
  };
}

function* rest(): Generator<Refused> {
  for (const [what, epoch] of NO_EPOCH) {
    yield {
      title: `leave: epoch is ${what}`,
      call: (client) => client.leave('c', { epoch }),
      names: ['epoch'],
    };
    yield {
      title: `heartbeat: epoch is ${what}`,
      call: (client) => client.heartbeat({ connId: 'c', epoch }),
      names: ['epoch'],
    };
  }
  for (const [what, snapshot] of [
    ['a string', 'no'],
    ['a number', 0],
    ['null', null],
  ]) {
    yield {
      title: `join: snapshot is ${what}`,
      call: (client) => client.join({ ...JOIN, snapshot }),
      names: ['snapshot'],
    };
  }
  for (const [what, options] of NO_OPTIONS) {
    yield { title: `join: options are ${what}`, call: (c) => c.join(options), names: ['join'] };
    yield {
      title: `heartbeat: options are ${what}`,
      call: (client) => client.heartbeat(options),
      names: ['heartbeat'],
    };
    if (options !== undefined) {
      yield {
        title: `leave: options are ${what}`,
        call: (client) => client.leave('c', options),
        names: ['leave'],
      };
      yield {
        title: `subscribe: options are ${what}`,
        call: (client) => client.subscribe(() => {}, options),
        names: ['subscribe'],
      };
      yield {
        title: `events: options are ${what}`,
        call: (client) => client.events(options).next(),
        names: ['events'],
      };
    }
    if (typeof options !== 'function') {
      yield {
        title: `subscribe: handler is ${what}`,
        call: (client) => client.subscribe(options),
        names: ['handler'],
      };
    }
    if (!Array.isArray(options)) {
      yield {
        title: `heartbeatMany: items are ${what}`,
        call: (client) => client.heartbeatMany(options),
        names: ['heartbeatMany'],
      };
    }
  }
  for (const field of ['roomId', 'userId', 'connId', 'state', 'snapshot']) {
    yield {
      title: `join: ${field} is a getter that throws`,
      call: (client) => client.join(withThrowing(JOIN, field)),
      names: [field],
    };
  }
  yield {
    title: 'leave: epoch is a getter that throws',
    call: (client) => client.leave('c', withThrowing({}, 'epoch')),
    names: ['epoch'],
  };
  yield {
    title: 'leave: an unknown field',
    call: (client) => client.leave('c', { epcoh: 5 }),
    names: ['epcoh', 'epoch'],
  };
  for (const field of ['connId', 'epoch', 'patchState']) {
    yield {
      title: `heartbeat: ${field} is a getter that throws`,
      call: (client) => client.heartbeat(withThrowing({ connId: 'c' }, field)),
      names: [field],
    };
  }
  for (const field of ['roomId', 'signal', 'maxBuffered']) {
    yield {
      title: `events: ${field} is a getter that throws`,
      call: (client) => client.events(withThrowing({}, field)).next(),
      names: [field],
    };
  }
  yield {
    title: 'events: signal is not an AbortSignal',
    call: (client) => client.events({ signal: {} }).next(),
    names: ['signal'],
  };
  for (const maxBuffered of [0, -1, 1.5, Number.NaN, '5', null]) {
    yield {
      title: `events: maxBuffered is ${maxBuffered}`,
      call: (client) => client.events({ maxBuffered }).next(),
      names: ['maxBuffered'],
    };
  }
}

function* locks(): Generator<Refused> {
  const acquire = (options: unknown) => (client: Untyped) => client.locks.acquire('l', options);
  for (const [what, options] of NO_OPTIONS) {
    yield { title: `locks.acquire: options are ${what}`, call: acquire(options), names: ['locks'] };
    if (options !== undefined) {
      yield {
        title: `locks.subscribe: options are ${what}`,
        call: (client) => client.locks.subscribe(() => {}, options),
        names: ['locks.subscribe'],
      };
    }
    if (typeof options !== 'function') {
      yield {
        title: `locks.subscribe: handler is ${what}`,
        call: (client) => client.locks.subscribe(options),
        names: ['handler'],
      };
    }
  }
  const values: [string, unknown[]][] = [
    ['ttlMs', [0, 9, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '5', null, {}]],
    ['waitMs', [-1, 1.5, Number.NaN, Number.NEGATIVE_INFINITY, 2 ** 53, '5', null, {}]],
    ['autoRenew', ['no', 0, null]],
    ['signal', [{}, null, 'stop']],
  ];
  for (const [field, wrong] of values) {
    for (const value of wrong) {
      yield {
        title: `locks.acquire: ${field} is ${JSON.stringify(value)} (${value})`,
        call: acquire({ ownerId: 'u', [field]: value }),
        names: [field],
      };
    }
  }
  for (const field of ['ownerId', 'ttlMs', 'waitMs', 'autoRenew', 'signal']) {
    yield {
      title: `locks.acquire: ${field} is a getter that throws`,
      call: acquire(withThrowing({ ownerId: 'u' }, field)),
      names: [field],
    };
  }
  yield {
    title: 'locks.subscribe: name is a getter that throws',
    call: (client) => client.locks.subscribe(() => {}, withThrowing({}, 'name')),
    names: ['name'],
  };
}

export const REFUSED: readonly Refused[] = [...ids(), ...states(), ...rest(), ...locks()];
