// Unreadable states (9.2): returned as null, counted and logged; other connections are unaffected.
import { deflateSync, gzipSync } from 'node:zlib';
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { byConn, failure, useIoredis, useStore } from '../conformance/stores.js';
import { keepLog } from '../support/clients.js';
import { createRandom } from '../support/random.js';
import { DICTIONARY, largeState } from './large.js';

describe('unreadable states', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });
  const state = largeState(createRandom());
  const text = JSON.stringify(state);
  const gzip = (json: string) => gzipSync(json).toString('base64');
  const bomb = `{"a":"${'0'.repeat(2 << 20)}"}`;
  const faults: [string, { state?: string | Buffer; compressed?: string }, RegExp][] = [
    ['a truncated gzip', { state: gzip(text).slice(0, 400), compressed: '1' }, /cut off/],
    [
      'deflate data that are not gzip',
      { state: deflateSync(text).toString('base64'), compressed: '1' },
      /damaged/,
    ],
    ['invalid base64', { state: '*not base64*', compressed: '1' }, /no base64/],
    ['gzip of text that is not JSON', { state: gzip('hello'), compressed: '1' }, /no JSON/],
    ['gzip of JSON that is not an object', { state: gzip('[1]'), compressed: '1' }, /no JSON/],
    ['invalid JSON', { state: '{"a":' }, /no JSON/],
    ['a number from the future', { state: 'whatever', compressed: '77' }, /does not know/],
    ['invalid zstd data', { state: 'whatever', compressed: '2' }, /damaged/],
    ['more than the limit', { state: gzip(bomb), compressed: '1' }, /maxStateBytes/],
  ];

  test.each(['inline', 'separate'] as const)(
    '9.2 %s: null, counted, logged once for each kind',
    async (storage) => {
      const logger = keepLog();
      const client = await store.connect({ stateStorage: storage, logger });
      const other = await store.connect({
        stateStorage: storage === 'inline' ? 'separate' : 'inline',
      });
      await client.join({ roomId: 'r', userId: 'u', connId: '0 good', state, snapshot: false });
      const ids = faults.map(([what]) => what);
      for (const [connId, { state: bytes = '', compressed }] of faults) {
        await client.join({ roomId: 'r', userId: 'u', connId, state: {}, snapshot: false });
        if (storage === 'inline') await redis.hset(`prs:conn:${connId}`, 'state', bytes);
        else await redis.set(`prs:conn:${connId}:state`, bytes);
        if (compressed) await redis.hset(`prs:conn:${connId}`, 'compressed', compressed);
      }
      if (storage === 'separate') {
        ids.push('a key that is gone', 'a key of another type');
        for (const connId of ids.slice(-2)) {
          await client.join({ roomId: 'r', userId: 'u', connId, state: {}, snapshot: false });
          await redis.del(`prs:conn:${connId}:state`);
        }
        await redis.rpush('prs:conn:a key of another type:state', 'x');
      }
      for (let round = 1; round <= 2; round++) {
        for (const found of [
          await client.fetchRoomSnapshot('r'),
          (await client.getUserPresence('u')).connections,
        ]) {
          expect(byConn(found).map((one) => [one.connId, one.state])).toEqual(
            byConn([
              { connId: '0 good', state },
              ...ids.map((connId) => ({ connId, state: null })),
            ]).map((one) => [one.connId, one.state]),
          );
        }
        expect(client.metrics().statesUnreadable).toBe(2 * round * ids.length);
      }
      expect((await other.fetchRoomSnapshot('r')).filter((one) => one.state !== null)).toHaveLength(
        1,
      );
      for (const [what, , message] of faults) {
        expect(
          logger.lines.filter((line) => message.test(line)),
          what,
        ).not.toEqual([]);
      }
      // Once for each kind of error, for any number of occurrences.
      const kinds = new Set(logger.lines.map((line) => line.replace(/connection "[^"]*"/, '')));
      expect(logger.lines).toHaveLength(kinds.size);
      expect(kinds.size).toBe(storage === 'inline' ? 5 : 6);
      for (const connId of ids) await client.leave(connId);
    },
  );

  test('9.2 a patch repairs a damaged state, and keeps a state of a later version', async () => {
    for (const stateStorage of ['inline', 'separate'] as const) {
      const maker = await store.connect({ stateStorage });
      const client = await store.connect({ stateCompression: {} });
      const c = { roomId: 'r', userId: 'u', connId: 'c' };
      await maker.join({ ...c, state });
      const damage = async (bytes: string, compressed: string) => {
        await redis.hset('prs:conn:c', { compressed, last_seen_ms: Date.now() });
        if (stateStorage === 'inline') await redis.hset('prs:conn:c', 'state', bytes);
        else await redis.set('prs:conn:c:state', bytes, 'KEEPTTL');
      };
      await damage(gzip(text).slice(0, 400), '1');
      for (const node of [client, maker]) {
        expect(await node.heartbeat({ connId: 'c', patchState: { a: 1 } })).toMatchObject({
          changed: node === client,
        });
      }
      expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ a: 1 });
      await damage('of the future', '77');
      const later = await store.connect();
      await expect(later.heartbeat({ connId: 'c', patchState: { a: 2 } })).rejects.toEqual(
        failure('CORRUPT_DATA', 'patchState'),
      );
      expect(await later.heartbeat({ connId: 'c' })).toMatchObject({ changed: false });
      expect(await redis.hget('prs:conn:c', 'compressed')).toBe('77');
      await later.leave('c');
    }
  });

  test('9.2 without the dictionary a state is null and kept, with it it is read', async () => {
    const stateCompression = { codec: 'zstd', dictionaries: [DICTIONARY] } as const;
    const maker = await store.connect({ stateCompression });
    await maker.join({ roomId: 'r', userId: 'u', connId: 'c', state });
    const logger = keepLog();
    const without = await store.connect({ logger });
    expect((await without.fetchRoomSnapshot('r'))[0]?.state).toBeNull();
    expect(without.metrics().statesUnreadable).toBe(1);
    expect(logger.lines.join()).toContain('stateCompression.dictionaries');
    await expect(without.heartbeat({ connId: 'c', patchState: { a: 1 } })).rejects.toEqual(
      failure('CORRUPT_DATA', 'stateCompression.dictionaries'),
    );
    // A node with another codec that has the dictionary only for reading.
    const reader = await store.connect({ stateCompression: { dictionaries: [DICTIONARY] } });
    expect((await reader.fetchRoomSnapshot('r'))[0]?.state).toEqual(state);
    await reader.heartbeat({ connId: 'c', patchState: { a: 1 } });
    expect(await redis.hget('prs:conn:c', 'compressed')).toBe('1');
    expect((await maker.fetchRoomSnapshot('r'))[0]?.state).toEqual({ ...state, a: 1 });
    await maker.leave('c');
  });
});
