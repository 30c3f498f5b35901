// States that JSON libraries, Lua and careless object handling get wrong (spec 3.5).
import fc from 'fast-check';
import type { AnyState } from './stores.js';

function nested(depth: number, wrap: (inner: unknown) => unknown): unknown {
  let value: unknown = 'core';
  for (let i = 0; i < depth; i++) value = wrap(value);
  return value;
}

const everyAscii = String.fromCharCode(...Array.from({ length: 128 }, (_, i) => i));

/** Name, and a value to put under a key. */
export const awkwardValues: [string, unknown][] = [
  ['an empty array', []],
  ['an empty object', {}],
  ['nested empty arrays and objects', [[], {}, [[]], [{}], { a: [], o: {} }]],
  ['null', null],
  ['an empty string', ''],
  ['booleans', [true, false]],
  ['2^53-1', 2 ** 53 - 1],
  ['-(2^53-1)', -(2 ** 53 - 1)],
  ['1e308', 1e308],
  ['the largest and the smallest number', [Number.MAX_VALUE, Number.MIN_VALUE]],
  ['-0 (0 in JSON)', -0],
  ['17 significant digits', [0.1 + 0.2, 1 / 3, 123456789012345.67, 5e-324]],
  ['numbers that look like others', [1e21, 1e-7, 100, 1.5e300, -1e-308]],
  ['100 nested arrays', nested(100, (inner) => [inner])],
  ['100 nested objects', nested(100, (inner) => ({ a: inner }))],
  ['100 nested arrays and objects', nested(50, (inner) => [{ a: inner }])],
  ['a lone high surrogate', '\ud83d'],
  ['a lone low surrogate', '\ude00'],
  ['surrogates in the wrong order', 'a\ude00\ud83db'],
  ['emoji', '👩‍👩‍👧‍👦🏳️‍🌈'],
  ['characters of every plane', '\u{10000}\u{1f600}\u{20000}\u{e0001}\u{10ffff}'],
  ['right-to-left and combining characters', 'שלום\u202e مرحبا e\u0301 \u0300'],
  ['noncharacters and private use', '\ufffe\uffff\ufdd0\ue000'],
  ['a byte order mark', '\ufefftext'],
  ['line and paragraph separators', '\u2028\u2029'],
  ['NUL', 'a\0b'],
  ['every ASCII character', everyAscii],
  ['C1 controls and DEL', '\u007f\u0080\u009f\u00a0\u00ad'],
  ['quotes and backslashes', '"\\"\\\\"/\'`'],
  ['text that looks like JSON', '{"a":[1,2]},"b":null]}'],
  ['text that looks like an escape', '\\u0000\\ud800\\n'],
  ['text that looks like RESP', '$-1\r\n*3\r\n:1\r\n'],
  ['a long array', Array.from({ length: 10_000 }, (_, i) => i)],
  ['holes and undefined (null in JSON)', [undefined, 1]],
];

function parsed(text: string): AnyState {
  return JSON.parse(text);
}

/** Name, and a whole state. */
export const awkwardStates: [string, AnyState][] = [
  ...awkwardValues.map(([name, value]): [string, AnyState] => [name, { value }]),
  ['an own key __proto__', parsed('{"a":1,"__proto__":{"polluted":true},"b":2}')],
  ['an own key __proto__ that is not an object', parsed('{"__proto__":null}')],
  ['a nested key __proto__', parsed('{"a":[{"__proto__":{"polluted":true}}]}')],
  ['a key constructor', parsed('{"constructor":{"prototype":{"polluted":true}}}')],
  ['keys of Object.prototype', parsed('{"toString":1,"hasOwnProperty":2,"valueOf":null}')],
  ['keys that Promises look for', parsed('{"then":1,"catch":[],"toJSON":"x"}')],
  ['an empty key', { '': 1, a: { '': [] } }],
  ['keys out of order', { z: 1, a: 2, m: { y: 1, b: 2 } }],
  ['many keys', Object.fromEntries(Array.from({ length: 2_000 }, (_, i) => [`k${i * 7}`, i]))],
  [
    'keys with unusual characters',
    { '\0': 1, '"': 2, '\\': 3, '\ud800': 4, '😀': 5, ' ': 6, '\n': 7 },
  ],
  ['keys that differ in their last character only', { a: 1, 'a\0': 2, 'a ': 3, 'a\u0301': 4 }],
  ['keys that look like numbers', { 1: 'a', 0: 'b', '01': 'c', '-0': 'd', '1e3': 'e' }],
  ['the names of Rollcall’s fields', { connId: 'x', epoch: -1, type: 'leave', state: null }],
  ['nothing', {}],
];

const unit = fc.oneof(
  { weight: 6, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }) },
  { weight: 1, arbitrary: fc.constantFrom('\0', '"', '\\', '\ud800', '\udfff', '\u2028') },
);
const text = fc.string({ unit, maxLength: 8 });
const key = fc.oneof(text, fc.constantFrom('a', 'b', 'c', '__proto__', 'constructor', ''));

/** A JSON value. */
export const anyValue: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.constantFrom(null, true, false, 2 ** 53 - 1, 1e308),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.integer(),
    text,
    fc.array(tie('value'), { maxLength: 4 }),
    fc.array(fc.tuple(key, tie('value')), { maxLength: 4 }).map(objectOf),
  ),
})).value;

/** A state with a few keys, which patches also use. */
export const anyState: fc.Arbitrary<AnyState> = fc
  .array(fc.tuple(key, anyValue), { maxLength: 6 })
  .map(objectOf);

/** A patch: values, nulls, and `undefined` for keys to remove. */
export const anyPatch: fc.Arbitrary<AnyState> = fc
  .array(fc.tuple(key, fc.oneof(anyValue, fc.constant(undefined), fc.constant(null))), {
    maxLength: 4,
  })
  .map(objectOf);

/** Like `Object.fromEntries`, but defines own properties, including `__proto__`. */
function objectOf(entries: [string, unknown][]): AnyState {
  return Object.fromEntries(entries);
}

/** The JSON of `state` after `patch` (spec 3.4). */
export function merged(state: AnyState, patch: AnyState): string {
  // Spread copies own properties, including `__proto__`, and keeps the order.
  const after = { ...state, ...patch };
  for (const name of Object.keys(patch)) if (patch[name] === undefined) delete after[name];
  return JSON.stringify(after);
}
