// Patches of large states (3.4, 3.7, 3.10, 9.3): separate states are written by a transaction that
// a script permits, inline states by heartbeat.lua. A patch takes one round trip, and never
// overwrites a change of another node.
import type { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { merged } from '../conformance/states.js';
import {
  failure,
  LONG_TTL_MS,
  record,
  STORAGES,
  useIoredis,
  useStore,
} from '../conformance/stores.js';
import { createRandom } from '../support/random.js';
import { startRedis } from '../support/redis.js';
import { commandsOf, largeState, type Node, referenceNode } from './large.js';

const c = { roomId: 'r', userId: 'u', connId: 'c' };
const HASH = 'prs:conn:c';
const KEY = 'prs:conn:c:state';

describe.each(Object.entries(STORAGES))('patches of large states [%s]', (name, options) => {
  const store = useStore('redis', options);
  const random = createRandom(name.length);
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });
  const names = (commands: string[][]) => commands.map(([command]) => command?.toUpperCase());

  /** A client that has joined `c` and patched it once. */
  async function patching(): Promise<Node> {
    const client = await store.connect();
    await client.join({ ...c, state: largeState(random) });
    await client.heartbeat({ connId: 'c', patchState: { first: 1 } });
    return client;
  }

  test('9.3 a patch is one round trip, and no script receives a separate state', async () => {
    const client = await patching();
    if (name.startsWith('inline')) {
      const commands = await commandsOf(store, () =>
        client.heartbeat({ connId: 'c', patchState: { cursor: { x: 7 } } }),
      );
      expect(names(commands)).toEqual(['EVALSHA']);
      return;
    }
    for (let x = 0; x < 3; x++) {
      const commands = await commandsOf(store, () =>
        client.heartbeat({ connId: 'c', patchState: { cursor: { x } } }),
      );
      expect(names(commands).slice(0, 3)).toEqual(['WATCH', 'EVAL', 'MULTI']);
      expect(names(commands).at(-1)).toBe('EXEC');
      expect(names(commands).filter((command) => command?.startsWith('EVAL'))).toHaveLength(1);
      const check = commands.find(([command]) => command?.toUpperCase() === 'EVAL') ?? [];
      expect(check.slice(2).join('').length).toBeLessThan(200);
    }
    // Also after a heartbeat without a patch.
    await client.heartbeat({ connId: 'c' });
    const commands = await commandsOf(store, () =>
      client.heartbeat({ connId: 'c', patchState: { cursor: { x: 9 } } }),
    );
    expect(names(commands).filter((command) => command?.startsWith('EVAL'))).toHaveLength(1);
  });

  test('2.2, 9.1 an inline state with a state_rev, and a leading zero in last_seen_ms, are handled', async () => {
    if (!name.startsWith('inline')) return;
    const client = await patching();
    const [before] = await client.fetchRoomSnapshot('r');
    const asFound = { last_seen_ms: `0${Date.now()}`, state_rev: '7' };
    await redis.hset(HASH, asFound);
    // One node has the connection in its cache, one does not, and one stores states in another
    // form.
    const nodes = [
      client,
      await store.connect(options),
      await store.connect(STORAGES['separate, zstd']),
    ];
    for (const node of nodes) {
      const [entry] = await node.fetchRoomSnapshot('r');
      expect(entry?.state).toEqual(before?.state);
      expect(entry?.lastSeenMs).toBe(Number(asFound.last_seen_ms));
    }
    await client.reapOnce();
    for (const [i, node] of nodes.entries()) {
      await redis.hset(HASH, asFound);
      const { changed } = await node.heartbeat({ connId: 'c', patchState: { [`node ${i}`]: i } });
      expect(changed).toBe(true);
      await node.heartbeat({ connId: 'c' });
    }
    expect(await redis.exists(KEY)).toBe(0);
    expect(await redis.hexists(HASH, 'state')).toBe(1);
    expect(await redis.hget(HASH, 'last_seen_ms')).toMatch(/^[1-9]/);
    for (const node of nodes) {
      const [entry] = await node.fetchRoomSnapshot('r');
      expect(entry?.state).toEqual({
        ...before?.state,
        'node 0': 0,
        'node 1': 1,
        'node 2': 2,
      });
    }
    await client.leave('c');
    expect(await store.redis().server.dbsize(store.redis().db)).toBe(0);
  });

  test('3.4, 3.10 each patch has one update event with the new state and the time of Redis', async () => {
    const client = await patching();
    const [entry] = await client.fetchRoomSnapshot('r');
    let text = JSON.stringify(entry?.state);
    const recorder = await record(client, { roomId: 'r' });
    const texts: string[] = [];
    const [seconds] = (await redis.time()).map(Number) as [number];
    for (let i = 0; i < 40; i++) {
      const patchState = {
        cursor: { x: random.int(0, 3), list: [] },
        [random.pick(['a', 'b', '__proto__', 'é'])]: random.pick([null, 2 ** 53 - 1, [], '\ud800']),
        [random.pick(['tool', 'b', 'nothing'])]: undefined,
      };
      const after = merged(JSON.parse(text), patchState);
      const { changed } = await client.heartbeat({ connId: 'c', patchState });
      expect(changed).toBe(after !== text);
      if (changed) texts.push(after);
      text = after;
    }
    const events = await recorder.settled();
    expect(events.map(({ state }) => JSON.stringify(state))).toEqual(texts);
    const [until] = (await redis.time()).map(Number) as [number];
    for (const { ts } of events) {
      expect(ts).toBeGreaterThanOrEqual(seconds * 1000);
      expect(ts).toBeLessThan((until + 1) * 1000);
    }
    await client.heartbeat({ connId: 'c', patchState: { last: 1 } });
    const last = (await recorder.settled()).at(-1)?.ts;
    expect(Number(await redis.hget(HASH, 'last_seen_ms'))).toBe(last);
    expect(Number(await redis.zscore('prs:{room:r}:last_seen', 'c'))).toBe(last);
  });

  test('3.4 nodes that patch one state concurrently lose no patch, and no event is missing', async () => {
    const maker = await patching();
    const nodes = [maker, await store.connect(), await store.connect()];
    const recorder = await record(maker, { roomId: 'r' });
    const each = 40;
    await Promise.all(
      nodes.map(async (node, n) => {
        for (let i = 0; i < each; i++) {
          await node.heartbeat({
            connId: 'c',
            patchState: { [`node ${n} ${i}`]: i, last: `${n} ${i}` },
          });
        }
      }),
    );
    const events = await recorder.settled();
    expect(events).toHaveLength(nodes.length * each);
    const state = (await maker.fetchRoomSnapshot('r'))[0]?.state;
    for (let n = 0; n < nodes.length; n++) {
      for (let i = 0; i < each; i++) expect(state[`node ${n} ${i}`]).toBe(i);
    }
    // Every event contains the changes of the earlier ones.
    for (const [i, event] of events.entries()) {
      const keys = Object.keys(event.state).filter((key) => key.startsWith('node'));
      expect(keys).toHaveLength(i + 1);
    }
    expect(events.at(-1)?.state).toEqual(state);
  });

  test('3.4 changes of other nodes are seen, in every form', async () => {
    if (!name.startsWith('inline')) return;
    const client = await patching();
    const { service } = await referenceNode(store);
    const plain = await store.connect(STORAGES.inline);
    for (let i = 0; i < 6; i++) {
      // With the same length as the text that they overwrite.
      await client.heartbeat({ connId: 'c', patchState: { theirs: 1000 + i, ours: i } });
      if (name === 'inline') {
        await service.heartbeat({ connId: 'c', patchState: { theirs: 2000 + i } });
      } else {
        await plain.heartbeat({ connId: 'c', patchState: { theirs: 2000 + i } });
      }
      expect(
        await client.heartbeat({ connId: 'c', patchState: { theirs: 2000 + i } }),
      ).toMatchObject({ changed: false });
      await client.heartbeat({ connId: 'c', patchState: { ours: 10 + i } });
      const [entry] = await client.fetchRoomSnapshot('r');
      expect(entry?.state).toMatchObject({ theirs: 2000 + i, ours: 10 + i });
    }
    await redis.hset(HASH, 'state', '{"by":"hand"}');
    await redis.hdel(HASH, 'compressed');
    await client.heartbeat({ connId: 'c', patchState: { and: 'us' } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual({ by: 'hand', and: 'us' });
  });

  test('3.3, 3.7 a patch of a connection that left, moved or has another epoch writes nothing', async () => {
    const client = await patching();
    const other = await store.connect();
    await other.leave('c');
    await expect(client.heartbeat({ connId: 'c', patchState: { x: 1 } })).rejects.toEqual(
      failure('CONNECTION_NOT_FOUND'),
    );
    expect(await store.redis().server.dbsize(store.redis().db)).toBe(0);

    const again = await patching();
    await other.join({ ...c, roomId: 'elsewhere', state: { small: 1 } });
    const recorder = await record(other);
    expect(await again.heartbeat({ connId: 'c', patchState: { x: 1 } })).toMatchObject({
      changed: true,
    });
    const [event] = await recorder.settled();
    expect(event).toMatchObject({ type: 'update', roomId: 'elsewhere', state: { small: 1, x: 1 } });

    const third = await patching();
    const { epoch } = await other.join({ ...c, state: largeState(random) });
    await expect(
      third.heartbeat({ connId: 'c', epoch: epoch - 1, patchState: { x: 1 } }),
    ).rejects.toEqual(failure('STALE_EPOCH'));
    expect((await other.fetchRoomSnapshot('r'))[0]?.state).not.toHaveProperty('x');
  });

  test('3.7 concurrent leaves and patches leave no keys', async () => {
    const [one, two] = [await store.connect(), await store.connect()];
    for (let i = 0; i < 40; i++) {
      await one.join({ ...c, state: largeState(random, 5_000) });
      await one.heartbeat({ connId: 'c', patchState: { i } });
      const late = one.heartbeat({ connId: 'c', patchState: { i: -i - 1 } }).catch(() => {});
      await Promise.all([late, two.leave('c')]);
      expect(await redis.exists(HASH, KEY)).toBe(0);
    }
    expect(await store.redis().server.dbsize(store.redis().db)).toBe(0);
  });

  test('9.3 a server that has lost its scripts still checks before it writes', async () => {
    const client = await patching();
    const other = await store.connect();
    await redis.script('FLUSH');
    await other.heartbeat({ connId: 'c', patchState: { other: 1 } });
    await redis.script('FLUSH');
    await client.heartbeat({ connId: 'c', patchState: { mine: 1 } });
    const [entry] = await client.fetchRoomSnapshot('r');
    expect(entry?.state).toMatchObject({ other: 1, mine: 1 });
  });

  test('9.3 a user without permission for transactions patches by scripts, and can read', async () => {
    const rules = 'on >secret ~prs:* &prs:* &prs:{room:*}:events';
    const rights = '+@read +@write +@pubsub +@connection +@scripting +info +time';
    await using server = await startRedis({
      users: {
        whole: `${rules} ${rights} +@transaction`,
        less: `${rules} ${rights} -@transaction`,
      },
    });
    const url = (user: string) => `redis://${user}:secret@${server.host}:${server.port}`;
    const connect = (user: string): Promise<Node> =>
      PresenceClient.connect({ url: url(user), ttlMs: LONG_TTL_MS, logger: {}, ...options });
    await using less = await connect('less');
    await using whole = await connect('whole');
    await less.join({ ...c, state: largeState(random) });
    for (let i = 0; i < 5; i++) {
      await less.heartbeat({ connId: 'c', patchState: { [`less ${i}`]: i } });
      await whole.heartbeat({ connId: 'c', patchState: { [`whole ${i}`]: i } });
    }
    for (const node of [less, whole]) {
      const [entry] = await node.fetchRoomSnapshot('r');
      for (let i = 0; i < 5; i++) {
        expect(entry?.state).toMatchObject({ [`less ${i}`]: i, [`whole ${i}`]: i });
      }
    }
  });
});
