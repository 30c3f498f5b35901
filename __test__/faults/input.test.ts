// Ids and states of any kind (spec 2.2, 3.5, 13). They are returned unchanged, or refused before
// anything is sent.
import fc from 'fast-check';
import { RollcallError } from 'rollcall';
import { describe, expect } from 'vitest';
import { announcedSeed } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { count, proven } from './proven.js';
import { type Client, connect } from './world.js';

const CASES = count(1500, 100_000);
/** The number of concurrent cases. */
const TOGETHER = 50;
const LONGEST = 4096;

/** Most ids are valid: a case has three of them, and one refused id refuses the case. */
const id = fc.oneof(
  { weight: 9, arbitrary: fc.string({ unit: 'binary', minLength: 1, maxLength: 30 }) },
  {
    weight: 9,
    arbitrary: fc.string({
      unit: fc.constantFrom('{', '}', ':', '*', '?', '[', '\\', '\0', ' ', '\n', '"', 'a'),
      minLength: 1,
    }),
  },
  { weight: 9, arbitrary: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 }) },
  {
    weight: 3,
    arbitrary: fc.constantFrom('__proto__', 'constructor', 'room:r', '}:conns', 'prs:', 'a:stat'),
  },
  { weight: 1, arbitrary: fc.constantFrom('', '\ud800', 'a\udc00', 'a:state') },
  {
    weight: 1,
    arbitrary: fc
      .integer({ min: LONGEST - 8, max: LONGEST + 2 })
      .map((length) => 'x'.repeat(length)),
  },
  {
    weight: 1,
    arbitrary: fc
      .integer({ min: Math.floor(LONGEST / 3) - 4, max: Math.floor(LONGEST / 3) + 1 })
      .map((n) => '字'.repeat(n)),
  },
);

/** Whether a refusal is allowed, and the text that its message must contain. */
function mayRefuse(text: string): boolean {
  return (
    text === '' ||
    Buffer.byteLength(text) > LONGEST ||
    !text.isWellFormed() ||
    text.endsWith(':state')
  );
}

function longest(...texts: string[]): number {
  return Math.max(...texts.map((text) => Buffer.byteLength(text)));
}

/** Runs `check` on many values, with limited concurrency. */
async function all<T>(arbitrary: fc.Arbitrary<T>, check: (one: T, i: number) => Promise<void>) {
  const sample = fc.sample(arbitrary, { numRuns: CASES, seed: announcedSeed() });
  for (let at = 0; at < sample.length; at += TOGETHER) {
    await Promise.all(sample.slice(at, at + TOGETHER).map((one, i) => check(one, at + i)));
  }
}

/** The result, or the error. */
async function attempt<T>(call: Promise<T>): Promise<T | RollcallError> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof RollcallError) return error;
    throw error;
  }
}

describe('6: input', () => {
  proven(`${CASES} ids of any kind`, { without: 'limits', timeoutMs: 600_000 }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    const redis = await server.client();
    let refused = 0;
    await all(fc.tuple(id, id, id), async ([room, user, conn], i) => {
      // Other cases use the same ids at the same time: a number distinguishes rooms and
      // connections.
      const [roomId, connId] = [room && `${room}${i}`, conn && `${i}${conn}`];
      const joined = await attempt(client.join({ roomId, userId: user, connId, state: { i } }));
      if (joined instanceof RollcallError) {
        refused += 1;
        expect(joined.code).toBe('INVALID_ARGUMENT');
        expect([roomId, user, connId].some(mayRefuse), joined.message).toBe(true);
        return;
      }
      expect(longest(roomId, user, connId)).toBeLessThanOrEqual(LONGEST);
      expect(joined.snapshot).toEqual([
        expect.objectContaining({ roomId, userId: user, connId, state: { i } }),
      ]);
      const { connections } = await client.getUserPresence(user);
      expect(connections).toContainEqual(expect.objectContaining({ roomId, connId }));
      expect(await client.leave(connId)).toEqual({ roomId, userId: user });
    });
    expect(await redis.keys('*'), 'what is left').toEqual([]);
    console.log(`ids: ${CASES} cases, ${refused} refused`);
  });

  const names = `${CASES} names of channels, items and locks`;
  proven(names, { without: 'limits', timeoutMs: 600_000 }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    const redis = await server.client();
    let refused = 0;
    await all(fc.tuple(id, id, id, id), async ([type, name, key, lockName], i) => {
      const channel = { channelType: type, channelName: name && `${i}${name}` };
      const data = [{ key, value: name }];
      const set = await attempt(client.metadata.set({ ...channel, data }));
      if (set instanceof RollcallError) {
        refused += 1;
        expect(set.code).toBe('INVALID_ARGUMENT');
        const fits = [channel.channelName, key, type].some(mayRefuse) || type.includes(':');
        // Text that UTF-8 cannot represent is not a valid value either.
        expect(fits || !name.isWellFormed(), set.message).toBe(true);
      } else {
        expect(longest(type, channel.channelName, key)).toBeLessThanOrEqual(LONGEST);
        const { metadata } = await client.metadata.get(channel);
        expect(Object.entries(metadata)).toEqual([[key, { value: name, revision: 1 }]]);
        expect(await redis.unlink(`prs:{chan:${type}:${channel.channelName}}:meta`)).toBe(1);
      }
      const lock = lockName && `${i}${lockName}`;
      const held = await attempt(client.locks.acquire(lock, { ownerId: type }));
      if (held instanceof RollcallError) {
        refused += 1;
        expect(held.code).toBe('INVALID_ARGUMENT');
        expect([lock, type].some(mayRefuse), held.message).toBe(true);
        return;
      }
      expect(longest(lock, type)).toBeLessThanOrEqual(LONGEST);
      expect((await client.locks.inspect(lock))?.ownerId).toBe(type);
      await held.release();
      expect(await redis.unlink(`prs:{prs:lock:${lock}}:token`)).toBe(1);
    });
    expect(await redis.keys('*'), 'what is left').toEqual([]);
    console.log(`names: ${2 * CASES} calls, ${refused} refused`);
  });

  const value: fc.Arbitrary<unknown> = fc.oneof(
    fc.jsonValue({ maxDepth: 6, stringUnit: 'binary' }),
    fc.constantFrom(2 ** 53 - 1, 1e308, -0, 5e-324, [], {}, [[]], '\ud800', null, true),
    fc.nat(100).map((depth) => {
      let nested: unknown = 1;
      for (let i = 0; i < depth; i++) nested = i % 2 ? [nested] : { nested };
      return nested;
    }),
  );
  const key = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 10 }),
    fc.constantFrom('__proto__', 'constructor', 'toString', '', 'a', 'b', '1', '0'),
  );
  const state = fc.array(fc.tuple(key, value), { maxLength: 6 }).map(objectOf);
  const patch = fc
    .array(fc.tuple(key, fc.oneof(value, fc.constant(undefined))), { maxLength: 4 })
    .map(objectOf);

  proven(`${CASES} states and patches`, { without: 'merging', timeoutMs: 600_000 }, async () => {
    await using server = await startRedis();
    const client = await connect({ url: server.url });
    await all(fc.tuple(state, patch), async ([before, change], i) => {
      const at = { roomId: `r${i}`, userId: 'u', connId: `c${i}` };
      await client.join({ ...at, state: before });
      expect(text((await only(client, at.roomId)).state)).toBe(text(before));
      const { changed } = await client.heartbeat({ connId: at.connId, patchState: change });
      const after = merged(before, change);
      expect(text((await only(client, at.roomId)).state)).toBe(text(after));
      expect(changed).toBe(text(after) !== text(before));
      await client.leave(at.connId);
    });
    expect(({} as { nested?: unknown }).nested).toBeUndefined();
  });
});

async function only(client: Client, roomId: string): Promise<{ state: unknown }> {
  const there = await client.fetchRoomSnapshot(roomId);
  expect(there).toHaveLength(1);
  return there[0] as { state: unknown };
}

/** An own property of each name, `__proto__` too. */
function objectOf(entries: [string, unknown][]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [name, of] of entries) {
    Object.defineProperty(object, name, {
      value: of,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return object;
}

/** The rules of spec 3.4. */
function merged(before: object, patch: object): object {
  const entries = new Map<string, unknown>(Object.entries(before));
  for (const [name, of] of Object.entries(patch)) {
    if (of === undefined) entries.delete(name);
    else entries.set(name, of);
  }
  return objectOf([...entries]);
}

/** The JSON text with sorted keys: a patch does not need to keep their order. */
function text(of: unknown): string {
  return JSON.stringify(of, (_, inner) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? // Not only a list, because {} differs from [].
        { object: Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)) }
      : inner,
  );
}
