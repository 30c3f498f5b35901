// Where states are stored (9.1) and how they are compressed (9.2): keys, TTLs, and nodes that all
// use different options.
import type { Redis } from 'ioredis';
import { describe, expect, test } from 'vitest';
import { merged } from '../conformance/states.js';
import {
  expired,
  record,
  SHORT_TTL_MS,
  STORAGES,
  useIoredis,
  useStore,
} from '../conformance/stores.js';
import { foreignJoin } from '../redis/foreign.js';
import { createRandom } from '../support/random.js';
import { eventually } from '../support/wait.js';
import { commandsOf, DICTIONARY, largeState, type Node, referenceNode } from './large.js';

describe('storage of states', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });
  const c = { roomId: 'r', userId: 'u', connId: 'c' };
  const HASH = 'prs:conn:c';
  const KEY = 'prs:conn:c:state';
  const random = createRandom();
  const large = largeState(random);

  test('9.1 separate: the state is in a separate key, with the same TTL, and not in the hash', async () => {
    const client = await store.connect({ stateStorage: 'separate' });
    for (const patchState of [undefined, { cursor: { x: 1, y: 1 } }, { more: 'x'.repeat(50) }]) {
      if (patchState) await client.heartbeat({ connId: 'c', patchState });
      else await client.join({ ...c, state: large });
      const [entry] = await client.fetchRoomSnapshot('r');
      expect(await redis.get(KEY)).toBe(JSON.stringify(entry?.state));
      expect(await redis.hexists(HASH, 'state')).toBe(0);
      const [hash, key] = await Promise.all([redis.pttl(HASH), redis.pttl(KEY)]);
      expect(hash).toBeGreaterThan(500_000);
      expect(Math.abs(hash - key)).toBeLessThan(1000);
    }
  });

  test.each(['inline', 'separate'])(
    '9.1, 9.3 %s: heartbeats renew the TTL of the state and never transfer the state',
    async (name) => {
      const client = await store.connect(STORAGES[name]);
      const { epoch } = await client.join({ ...c, state: large });
      const keys = name === 'separate' ? [HASH, KEY] : [HASH];
      const shorten = () => Promise.all(keys.map((key) => redis.pexpire(key, 5_000)));
      const heartbeats: [string, () => Promise<unknown>][] = [
        ['one', () => client.heartbeat({ connId: 'c' })],
        ['with an epoch', () => client.heartbeat({ connId: 'c', epoch })],
        ['many', () => client.heartbeatMany([{ connId: 'c' }])],
        ['with a higher epoch', () => client.heartbeat({ connId: 'c', epoch: epoch + 1 })],
        ['a patch that changes nothing', () => client.heartbeat({ connId: 'c', patchState: {} })],
      ];
      for (const [what, heartbeat] of heartbeats) {
        await shorten();
        const commands = await commandsOf(store, heartbeat);
        for (const key of keys) expect(await redis.pttl(key), what).toBeGreaterThan(500_000);
        const sent = commands.flat().join('').length;
        if (what !== 'a patch that changes nothing') expect(sent, what).toBeLessThan(1_000);
      }
      // By a node without the connection in its cache.
      const other = await store.connect();
      await shorten();
      await other.heartbeat({ connId: 'c' });
      for (const key of keys) expect(await redis.pttl(key)).toBeGreaterThan(500_000);
    },
  );

  test('2.3 separate: no key is left after leave, replacement, expiry, or a join that stores inline', async () => {
    const separate = await store.connect({ stateStorage: 'separate' });
    const inline = await store.connect();
    const size = () => store.redis().server.dbsize(store.redis().db);
    await separate.join(c);
    await separate.leave('c');
    expect(await size()).toBe(0);

    await separate.join(c);
    await separate.join({ ...c, roomId: 'r2', userId: 'u2' });
    await inline.leave('c');
    expect(await size()).toBe(0);

    await separate.join(c);
    await inline.join(c);
    expect(await redis.exists(KEY)).toBe(0);
    const { epoch } = await separate.join(c);
    expect(await redis.hexists(HASH, 'state')).toBe(0);
    await inline.leave('c', { epoch });
    expect(await size()).toBe(0);

    const hasty = await store.connect({ stateStorage: 'separate', ttlMs: SHORT_TTL_MS });
    await hasty.join({ ...c, state: large });
    await expired(hasty, 'r', 'c');
    // A state that outlived its connection, for example after a concurrent heartbeat.
    await redis.set(KEY, '{}');
    await hasty.reapOnce();
    expect(await size()).toBe(0);

    // A hash without a TTL and its state get one; then both are removed.
    await separate.join(c);
    await redis.persist(HASH);
    await redis.persist(KEY);
    await redis.zadd('prs:{room:r}:last_seen', 1, 'c');
    await redis.hset(HASH, 'last_seen_ms', 1);
    for (const due of await redis.keys('prs:due:*')) await redis.zadd(due, 'XX', 0, 'r');
    await eventually(async () => {
      await hasty.reapOnce();
      expect(await size()).toBe(0);
    });
  });

  test.each([
    ['gzip', '1', []],
    ['zstd', '2', []],
    ['zstd', '3', [DICTIONARY]],
  ] as const)(
    '9.2 %s: states over the threshold are compressed, with `compressed` = %s',
    async (codec, number, dictionaries) => {
      for (const stateStorage of ['inline', 'separate'] as const) {
        const client = await store.connect({
          stateStorage,
          stateCompression: { thresholdBytes: 1000, codec, dictionaries },
        });
        const recorder = await record(client);
        const stored = () =>
          stateStorage === 'inline' ? redis.hgetBuffer(HASH, 'state') : redis.getBuffer(KEY);
        const states = [
          { small: 1 },
          large,
          { small: 2, none: null },
          { ...large, a: 1 },
          { b: 1 },
        ];
        await client.join({ ...c, state: {} });
        let before: object = {};
        for (const state of states) {
          const removed = Object.fromEntries(Object.keys(before).map((key) => [key, undefined]));
          await client.heartbeat({ connId: 'c', patchState: { ...removed, ...state } });
          before = state;
          const text = JSON.stringify(state);
          const bytes = await stored();
          const compressed = await redis.hget(HASH, 'compressed');
          if (text.length > 1000) {
            expect(compressed).toBe(number);
            expect(bytes?.length).toBeLessThan(text.length / 2);
          } else {
            expect(compressed).toBeNull();
            expect(bytes?.toString()).toBe(text);
          }
          expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual(state);
          // Events contain the uncompressed state.
          expect((await recorder.settled()).at(-1)?.state).toEqual(state);
        }
        await client.join({ ...c, state: large });
        expect(await redis.hget(HASH, 'compressed')).toBe(number);
        expect((await recorder.settled()).at(-1)?.state).toEqual(large);
        await recorder.stop();
        await client.leave('c');
      }
    },
  );

  test('9.2 gzip is compatible with legacy nodes', async () => {
    const { gzipSync, gunzipSync } = await import('node:zlib');
    const client = await store.connect({ stateCompression: {} });
    await client.join({ ...c, state: large });
    const text = Buffer.from((await redis.hget(HASH, 'state')) ?? '', 'base64');
    expect(JSON.parse(gunzipSync(text).toString())).toEqual(large);
    const theirs = { ...large, by: 'them' };
    await redis.hset(HASH, {
      state: gzipSync(JSON.stringify(theirs)).toString('base64'),
      last_seen_ms: Date.now(),
    });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual(theirs);
    await client.heartbeat({ connId: 'c', patchState: { by: 'us' } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ ...theirs, by: 'us' });
  });

  test('9.1, 9.2 nodes with every form of storage and legacy nodes: all read and patch each other’s states', async () => {
    const nodes: [string, Node][] = [];
    for (const [name, options] of Object.entries(STORAGES)) {
      nodes.push([name, await store.connect(options)]);
    }
    const { service } = await referenceNode(store);
    const [, watcher] = nodes[0] as [string, Node];
    const recorder = await record(watcher);
    const expected = new Map<string, unknown>();
    for (const [size, bytes] of [
      ['small', 100],
      ['large', 12_000],
    ] as const) {
      for (const [name, node] of nodes) {
        const connId = `${name} ${size}`;
        const state = largeState(random, bytes);
        await node.join({ roomId: 'r', userId: 'u', connId, state });
        expected.set(connId, state);
      }
      const theirs = largeState(random, bytes);
      await foreignJoin(redis, { ...c, connId: `reference ${size}`, state: theirs });
      expected.set(`reference ${size}`, theirs);
    }
    // A restart with other options is a node that patches states of another form.
    for (let round = 0; round < 2; round++) {
      for (const [connId, state] of expected) {
        for (const [name, node] of random.shuffle(nodes)) {
          const patchState = { [name]: random.int(0, 9), tool: undefined, cursor: { x: round } };
          const after = merged(expected.get(connId) as object, patchState);
          const { changed } = await node.heartbeat({ connId, patchState });
          expect(changed, `${name} patches ${connId}`).toBe(
            after !== JSON.stringify(expected.get(connId)),
          );
          expected.set(connId, JSON.parse(after));
        }
        if (connId.startsWith('reference') || connId.startsWith('inline ')) {
          // Stored in the form of legacy nodes, so that they can read it.
          const plain = { plain: round };
          await watcher.heartbeat({ connId, patchState: plain });
          expected.set(connId, { ...(expected.get(connId) as object), ...plain });
          const patchState = { reference: round };
          await service.heartbeat({ connId, patchState });
          expected.set(connId, { ...(expected.get(connId) as object), ...patchState });
        }
        expect(state).toBeDefined();
      }
      for (const [name, node] of nodes) {
        const snapshot = await node.fetchRoomSnapshot('r');
        const { connections } = await node.getUserPresence('u');
        for (const seen of [snapshot, connections]) {
          expect(Object.fromEntries(seen.map((one) => [one.connId, one.state])), name).toEqual(
            Object.fromEntries(expected),
          );
        }
      }
      const last = new Map((await recorder.settled()).map((event) => [event.connId, event.state]));
      expect(Object.fromEntries(last)).toEqual(Object.fromEntries(expected));
    }
    // Heartbeats of every node keep every connection alive.
    for (const [, node] of nodes) {
      for (const connId of expected.keys()) await node.heartbeat({ connId });
    }
    for (const key of await redis.keys('prs:conn:*')) {
      expect(await redis.pttl(key), key).toBeGreaterThan(500_000);
    }
    for (const connId of expected.keys()) await watcher.leave(connId);
    for (const [, node] of nodes) expect(node.metrics().statesUnreadable).toBe(0);
  });

  test('9.1 a legacy node that patches a connection with a separate state: its state is used', async () => {
    const client = await store.connect({ stateStorage: 'separate' });
    const { service } = await referenceNode(store);
    await client.join({ ...c, state: large });
    await service.heartbeat({ connId: 'c', patchState: { by: 'them' } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ by: 'them' });
    await client.heartbeat({ connId: 'c', patchState: { also: 'us' } });
    const both = { by: 'them', also: 'us' };
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual(both);
    expect(JSON.parse((await redis.hget(HASH, 'state')) ?? '')).toEqual(both);
  });
});
