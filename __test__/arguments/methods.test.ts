// Invalid arguments, for every public method: the call rejects with INVALID_ARGUMENT, the message
// names the field, and nothing is sent (spec 12, 13).
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { beforeAll, describe, expect, test } from 'vitest';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { type RedisServer, sharedRedis } from '../support/redis.js';
import { REFUSED } from './refused.js';
import { METADATA_REFUSED } from './refused-metadata.js';

const ALL = [...REFUSED, ...METADATA_REFUSED];

let server: RedisServer;
let admin: Redis;

beforeAll(async () => {
  server = await sharedRedis();
  admin = await server.client();
});

/** The number of calls of each command, without commands that the client sends by itself. */
async function commands(): Promise<Record<string, number>> {
  const { ping, info, select, ...others } = await commandCalls(admin);
  return others;
}

describe('12: invalid arguments reject, and the message names the field', () => {
  test.each(['redis', 'memory'] as const)('on %s, and nothing is sent', async (store) => {
    const client = await openClient(store === 'redis' ? server.url : 'memory://');
    const before = await commands();
    for (const { title, call, names } of ALL) {
      const error = await rejection(() => call(client)).catch((cause) => {
        throw new Error(title, { cause });
      });
      expect(error.code, title).toBe('INVALID_ARGUMENT');
      for (const name of names) expect(error.message, title).toContain(name);
      expect(error.message.length, title).toBeLessThan(500);
    }
    // Earlier commands would have arrived before this one.
    await client.fetchRoomSnapshot('r');
    const after = await commands();
    if (store === 'redis') {
      expect(after).toEqual({ ...before, smembers: (before.smembers ?? 0) + 1 });
    }
  });

  test('the table has an entry for every method that takes arguments', async () => {
    const client: Untyped = await openClient('memory://');
    const methods = new Set(ALL.map(({ title }) => title.split(/[: ]/)[0]));
    const without = ['constructor', 'startReaper', 'reapOnce', 'metrics', 'close', 'on'];
    const ofPart = (part: string, of: object) =>
      Object.getOwnPropertyNames(Object.getPrototypeOf(of)).flatMap((name) =>
        name === 'constructor' ? [] : `${part}.${name}`,
      );
    expect([...methods, ...without].sort()).toEqual(
      [
        ...Object.getOwnPropertyNames(PresenceClient.prototype),
        ...ofPart('locks', client.locks),
        ...ofPart('metadata', client.metadata),
      ].sort(),
    );
  });

  test('`on` throws, because it returns no Promise', async () => {
    const client: Untyped = await openClient('memory://');
    for (const call of [
      () => client.on('nothing', () => {}),
      () => client.on(undefined, () => {}),
      () => client.on(Symbol('state'), () => {}),
      () => client.on('state', 5),
      () => client.on('state'),
    ]) {
      expect(call).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });

  test('the constructor is not public', () => {
    expect(() => new (PresenceClient as Untyped)()).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});

describe('5.5: heartbeatMany returns errors as values, in order', () => {
  test('holes, wrong types and valid items', async () => {
    const client: Untyped = await openClient(server.url);
    await client.join({ roomId: 'r', userId: 'u', connId: 'many' });
    const items: unknown[] = [{ connId: 'many' }, { connId: 5 }];
    items[3] = null;
    items.push({ connId: 'many', epoch: Number.NaN }, { connId: 'unknown' }, { connId: 'many' });
    const results = await client.heartbeatMany(items);
    expect(results.map((result: Untyped) => result.code ?? result.changed)).toEqual([
      false,
      'INVALID_ARGUMENT',
      'INVALID_ARGUMENT',
      'INVALID_ARGUMENT',
      'INVALID_ARGUMENT',
      'CONNECTION_NOT_FOUND',
      false,
    ]);
    expect(results[2].message).toContain('item 2');
    expect(await client.heartbeatMany([])).toEqual([]);
    await client.leave('many');
  });
});

describe('3.5: states omit what JSON omits', () => {
  test('functions, symbols and undefined in a state', async () => {
    const client: Untyped = await openClient(server.url);
    const state = { a: () => 1, b: Symbol('b'), c: undefined, d: [() => 1], e: Number.NaN };
    const { snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'json', state });
    expect(snapshot[0].state).toEqual({ d: [null], e: null });
    const refreshed = await client.heartbeat({ connId: 'json', patchState: { e: undefined } });
    expect(refreshed.changed).toBe(true);
    expect((await client.fetchRoomSnapshot('r'))[0].state).toEqual({ d: [null] });
    await client.leave('json');
  });

  test('arguments are copied at the call: later changes are not sent', async () => {
    const client: Untyped = await openClient(server.url);
    const state = { mic: 'off' };
    const joining = client.join({ roomId: 'r', userId: 'u', connId: 'late', state });
    state.mic = 'on';
    expect((await joining).snapshot[0].state).toEqual({ mic: 'off' });
    await client.leave('late');
  });
});
