// Calls that the methods of `client.metadata` refuse, as a table in the form of refused.ts.
import type { Untyped } from '../support/clients.js';
import { NO_ID, NO_OPTIONS, type Refused, TOO_LONG, withThrowing } from './refused.js';

const CHANNEL = { channelType: 't', channelName: 'n' };

/** Every change of metadata, by its name. */
const CHANGES = ['set', 'update', 'remove'] as const;

const NO_WHOLE: [string, unknown][] = [
  ['NaN', Number.NaN],
  ['Infinity', Number.POSITIVE_INFINITY],
  ['a fraction', 1.5],
  ['2^53', 2 ** 53],
  ['a string', '5'],
  ['a bigint', 5n],
  ['null', null],
];

const NO_FLAG: [string, unknown][] = [
  ['a number', 1],
  ['a string', 'true'],
  ['null', null],
];

const NO_ITEM: [string, unknown, string][] = [
  ['undefined', undefined, 'data[1]'],
  ['null', null, 'data[1]'],
  ['a string', 'key', 'data[1]'],
  ['an array', ['key'], 'data[1]'],
  ['without a key', { value: 'v' }, 'data[1].key'],
  ['a key that is a number', { key: 5 }, 'data[1].key'],
  ['a key with half a surrogate pair', { key: '\ud800' }, 'data[1].key'],
  ['a key that cannot be read', withThrowing({}, 'key'), 'key'],
];

const NO_VALUE: [string, unknown][] = [
  ['a number', 5],
  ['null', null],
  ['an object', {}],
  ['a boolean', true],
  ['a String object', new String('v')],
  ['a bigint', 5n],
];

function* metadata(): Generator<Refused> {
  const base = { ...CHANNEL, data: [{ key: 'k' }] };
  const calls: [string, (client: Untyped, wrong: object) => Promise<unknown>][] = [
    ...CHANGES.map((change): (typeof calls)[number] => [
      `metadata.${change}`,
      (client, wrong) => client.metadata[change]({ ...base, ...wrong }),
    ]),
    ['metadata.get', (client, wrong) => client.metadata.get({ ...CHANNEL, ...wrong })],
    [
      'metadata.subscribe',
      (client, wrong) => client.metadata.subscribe(() => {}, { ...CHANNEL, ...wrong }),
    ],
  ];
  for (const [method, call] of calls) {
    for (const field of ['channelType', 'channelName']) {
      for (const [what, id] of [...NO_ID, ...TOO_LONG]) {
        const title = `${method}: ${field} is ${what}`;
        yield { title, call: (client) => call(client, { [field]: id }), names: [field] };
      }
    }
    const names = ['channelType', 'colon'];
    const title = `${method}: channelType has a colon (2.2)`;
    yield { title, call: (client) => call(client, { channelType: 'a:b' }), names };
    const name = method.slice('metadata.'.length);
    for (const [what, options] of NO_OPTIONS) {
      if (name === 'subscribe' && options === undefined) continue;
      yield {
        title: `${method}: options are ${what}`,
        call: (client) =>
          name === 'subscribe'
            ? client.metadata.subscribe(() => {}, options)
            : client.metadata[name](options),
        names: [method],
      };
    }
  }
  yield {
    title: 'metadata.subscribe: handler is not a function',
    call: (client) => client.metadata.subscribe('handler'),
    names: ['handler'],
  };
  for (const change of CHANGES) {
    const method = `metadata.${change}`;
    const wrong = (title: string, fields: object, ...names: string[]): Refused => ({
      title: `${method}: ${title}`,
      call: (client) => client.metadata[change]({ ...base, ...fields }),
      names,
    });
    for (const [what, id] of [...NO_ID, ...TOO_LONG]) {
      if (id === undefined) continue;
      yield wrong(`actorUserId is ${what}`, { actorUserId: id }, 'actorUserId');
      yield wrong(`lockName is ${what}`, { options: { lockName: id } }, 'lockName');
    }
    for (const [what, number] of NO_WHOLE) {
      yield wrong(`majorRevision is ${what}`, { options: { majorRevision: number } }, 'majorRev');
      const fenced = { options: { lockName: 'l' }, fencingToken: number };
      yield wrong(`fencingToken is ${what}`, fenced, 'fencingToken');
      const data = [{ key: 'k' }, { key: 'k', revision: number }];
      if (change !== 'remove') yield wrong(`a revision is ${what}`, { data }, 'data[1].revision');
    }
    yield wrong(
      'fencingToken is negative',
      { options: { lockName: 'l' }, fencingToken: -1 },
      'fencingToken',
    );
    yield wrong('fencingToken without lockName', { fencingToken: 1 }, 'fencingToken', 'lockName');
    for (const [what, flag] of NO_FLAG) {
      for (const name of ['addTimestamp', 'addUserId']) {
        yield wrong(`${name} is ${what}`, { options: { [name]: flag } }, name);
      }
    }
    for (const [what, item, named] of NO_ITEM) {
      yield wrong(`an item is ${what}`, { data: [{ key: 'k' }, item] }, named);
    }
    // biome-ignore lint/suspicious/noSparseArray: that is what is tested
    yield wrong('data has a hole', { data: [{ key: 'k' }, , { key: 'l' }] }, 'data[1]');
    if (change !== 'remove') {
      for (const [what, value] of NO_VALUE) {
        const data = [{ key: 'k' }, { key: 'l', value }];
        yield wrong(`a value is ${what}`, { data }, 'data[1].value');
      }
    }
    for (const [what, data] of [
      ['null', null],
      ['an object', { key: 'k' }],
      ['a string', 'k'],
      ['array-like', { length: 1, 0: { key: 'k' } }],
    ]) {
      yield wrong(`data is ${what}`, { data }, 'data');
    }
    for (const options of [null, [], 'x', 5]) {
      yield wrong(`options is ${JSON.stringify(options)}`, { options }, 'options');
    }
    for (const field of ['channelName', 'channelType', 'data', 'options', 'actorUserId']) {
      yield {
        title: `${method}: ${field} is a getter that throws`,
        call: (client) => client.metadata[change](withThrowing(base, field)),
        names: [field],
      };
    }
    for (const field of ['majorRevision', 'lockName', 'addTimestamp', 'addUserId']) {
      yield wrong(
        `options.${field} is a getter that throws`,
        { options: withThrowing({}, field) },
        field,
      );
    }
  }
}

export const METADATA_REFUSED: readonly Refused[] = [...metadata()];
