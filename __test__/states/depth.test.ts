// Depth of nesting (spec 3.11): every reader can encode an accepted state again, and deeper states
// of other nodes have no side effects.
import { gzipSync } from 'node:zlib';
import type { Redis } from 'ioredis';
import { initPresence } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ioredis, serviceOn, socketServer } from '../compat/services.js';
import {
  type AnyState,
  byConn,
  failure,
  onEveryStorage,
  record,
  useIoredis,
  useStore,
} from '../conformance/stores.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

/** A value with arrays nested `depth` levels deep; for 0 a number. */
function nested(depth: number): AnyState {
  let value: unknown = 7;
  for (let level = 0; level < depth; level++) value = [value];
  return value;
}

/** A state of this depth. */
function deep(depth: number): AnyState {
  return { nested: nested(depth - 1) };
}

/** The text of a state of this depth. JSON.stringify would overflow the stack. */
function deepText(depth: number): string {
  return `{"nested":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`;
}

function tooDeep(field: string, depth: number, limit = 128): unknown {
  const message = `${field} is nested ${depth} levels deep, more than the limit of ${limit} (limits.maxDepth)`;
  return failure('INVALID_ARGUMENT', message);
}

onEveryStorage('3.11 states of a client', (store) => {
  test('3.11 a state 128 deep is accepted, one 129 deep is refused before anything is sent', async () => {
    const client = await store.connect();
    const recorder = await record(client);
    for (const depth of [129, 1000]) {
      await expect(client.join({ ...IDS, state: deep(depth) })).rejects.toEqual(
        tooDeep('state', depth),
      );
    }
    expect(await client.fetchRoomSnapshot('r')).toEqual([]);
    await client.join({ ...IDS, state: deep(128) });
    const patch = (depth: number) => ({ connId: 'c', patchState: { more: nested(depth) } });
    await expect(client.heartbeat(patch(128))).rejects.toEqual(tooDeep('patchState', 129));
    expect(await client.heartbeat(patch(127))).toMatchObject({ changed: true });
    const results = await client.heartbeatMany([patch(128), { connId: 'c' }, patch(126)]);
    expect(results).toEqual([
      tooDeep('patchState', 129),
      expect.objectContaining({ changed: false }),
      expect.objectContaining({ changed: true }),
    ]);
    const state = { ...deep(128), more: nested(126) };
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toEqual(state);
    const events = await recorder.settled();
    expect(events.map((event) => event.type)).toEqual(['join', 'update', 'update']);
    expect(events.at(-1)?.state).toEqual(state);
    expect(client.metrics().statesUnreadable).toBe(0);
    await client.leave('c');
  });

  test('3.11 a value that JSON.stringify cannot write is INVALID_ARGUMENT', async () => {
    const client = await store.connect();
    const cyclic: AnyState = { a: {} };
    cyclic.a.b = cyclic;
    await client.join(IDS);
    for (const [state, message] of [
      [cyclic, 'cannot be written as JSON'],
      [deep(100_000), 'limits.maxDepth'],
    ]) {
      await expect(client.join({ ...IDS, state })).rejects.toEqual(
        failure('INVALID_ARGUMENT', message),
      );
      const heartbeat = { connId: 'c', patchState: state };
      await expect(client.heartbeat(heartbeat)).rejects.toEqual(
        failure('INVALID_ARGUMENT', message),
      );
      const [result] = await client.heartbeatMany([heartbeat]);
      expect(result).toEqual(failure('INVALID_ARGUMENT', message));
    }
    await client.leave('c');
  });

  test('3.11 limits.maxDepth is the limit', async () => {
    const client = await store.connect({ limits: { maxDepth: 3 } });
    await client.join({ ...IDS, state: deep(3) });
    await expect(client.join({ ...IDS, state: deep(4) })).rejects.toEqual(tooDeep('state', 4, 3));
    await client.leave('c');
  });
});

describe('3.11 deeper states of other nodes', () => {
  const store = useStore('redis');
  let redis: Redis;
  useIoredis(store, (client) => {
    redis = client;
  });

  test('3.11 a stored state that is too deep is returned as null, counted, and kept', async () => {
    const client = await store.connect({ stateCompression: {} });
    const depths = [128, 129, 4108, 100_000];
    for (const depth of depths) {
      for (const [connId, state, compressed] of [
        [`${depth}`, deepText(depth), '0'],
        [`${depth} gzip`, gzipSync(deepText(depth)).toString('base64'), '1'],
      ] as const) {
        await client.join({ ...IDS, connId, snapshot: false });
        await redis.hset(`prs:conn:${connId}`, { state, compressed });
      }
    }
    const unreadable = 2 * (depths.length - 1);
    for (const found of [
      await client.fetchRoomSnapshot('r'),
      (await client.getUserPresence('u')).connections,
    ]) {
      const readable = byConn(found).filter(({ state }) => state !== null);
      expect(readable.map(({ connId }) => connId)).toEqual(['128', '128 gzip']);
      expect(found).toHaveLength(unreadable + 2);
      // As sockets and logs encode it.
      expect(() => JSON.stringify(found)).not.toThrow();
    }
    expect(client.metrics().statesUnreadable).toBe(2 * unreadable);
    const reader = await store.connect();
    await expect(reader.heartbeat({ connId: '4108', patchState: { a: 1 } })).rejects.toEqual(
      failure('CORRUPT_DATA', 'limits.maxDepth'),
    );
    expect(await redis.hget('prs:conn:4108', 'state')).toBe(deepText(4108));
    expect(await reader.heartbeat({ connId: '4108' })).toMatchObject({ changed: false });
    const wider = await store.connect({ limits: { maxDepth: 200 } });
    expect(await wider.heartbeat({ connId: '129', patchState: { a: 1 } })).toMatchObject({
      changed: true,
    });
    for (const { connId } of await client.fetchRoomSnapshot('r')) await client.leave(connId);
  });

  test('3.11 an event with a state that is too deep has a null state; an event that is too deep elsewhere is dropped', async () => {
    const client = await store.connect();
    const recorder = await record(client, { roomId: 'r' });
    const all = await record(client);
    const publish = (state: string, more = '') =>
      redis.publish(
        'prs:{room:r}:events',
        `{"type":"update","roomId":"r","userId":"u","connId":"c","state":${state},"ts":1,"epoch":2${more}}`,
      );
    for (const depth of [128, 140, 4108, 100_000]) await publish(deepText(depth));
    await publish('{}', `,"more":${deepText(100_000)}`);
    await publish('{"last":true}');
    for (const received of [recorder, all]) {
      const states = (await received.settled()).map(({ state }) => state);
      expect(states).toEqual([JSON.parse(deepText(128)), null, null, null, { last: true }]);
    }
    // Received on the room's channel, and by the pattern.
    expect(client.metrics().statesUnreadable).toBe(6);
    expect(client.metrics().eventsMalformed).toBe(2);
  });

  test('3.11 an item of metadata that is too deep makes the record unreadable, and its event malformed', async () => {
    const client = await store.connect();
    const channel = { channelType: 't', channelName: 'n' };
    const received: AnyState[] = [];
    const stop = await client.metadata.subscribe((event) => void received.push(event));
    const item = (depth: number) => `{"value":${deepText(depth)},"revision":1}`;
    const key = 'prs:{chan:t:n}:meta';
    await redis.hset(key, { items: `{"k":${item(4108)}}`, totalCount: 1, majorRevision: 3 });
    await expect(client.metadata.get(channel)).rejects.toEqual(
      failure('CORRUPT_DATA', 'limits.maxDepth'),
    );
    await redis.publish(
      'prs:{chan:t:n}:meta_events',
      `{"channelName":"n","channelType":"t","operation":"set","items":[{"key":"k","value":${deepText(4108)},"revision":1}],"majorRevision":3,"timestamp":1}`,
    );
    const data = [{ key: 'k', value: 'v' }];
    expect(await client.metadata.set({ ...channel, data })).toMatchObject({ majorRevision: 4 });
    expect(await client.metadata.get(channel)).toMatchObject({ majorRevision: 4 });
    await stop();
    expect(received.map(({ majorRevision }) => majorRevision)).toEqual([4]);
    expect(client.metrics().eventsMalformed).toBe(1);
    await redis.del(key);
  });
});

describe('3.11 the legacy interface', () => {
  test('3.11 sockets: refused in the acknowledgement, and a snapshot of a room with a deep state succeeds', async () => {
    const redis = await ioredis();
    const sockets = await socketServer();
    const started = initPresence({ io: sockets.io, redis, logger: {} });
    onTestFinished(() => started.dispose());
    await started.ready;
    const socket = await sockets.connect();
    const join = { roomId: 'r', userId: 'u' };
    const refused = (field: string) => ({
      ok: false,
      code: 'INVALID_ARGUMENT',
      error: expect.stringMatching(`${field} is nested 129 levels deep.*128.*limits.maxDepth`),
    });
    expect(await socket.emitWithAck('presence:join', { ...join, state: deep(129) })).toEqual(
      refused('state'),
    );
    expect(await socket.emitWithAck('presence:join', join)).toMatchObject({ ok: true });
    expect(await socket.emitWithAck('presence:heartbeat', { patchState: deep(129) })).toEqual(
      refused('patchState'),
    );
    await redis.hset(`prs:conn:${socket.id}`, 'state', deepText(4108));
    const other = await sockets.connect();
    const answer = await other.emitWithAck('presence:join', { roomId: 'r', userId: 'v' });
    expect(answer).toMatchObject({ ok: true });
    const states = byConn<AnyState>(answer.snapshot).map(({ userId, state }) => [userId, state]);
    expect(Object.fromEntries(states)).toEqual({ u: null, v: {} });
  });

  test('3.11 PresenceService rejects', async () => {
    const service = serviceOn(await ioredis());
    await expect(service.join({ ...IDS, state: deep(129) })).rejects.toEqual(tooDeep('state', 129));
    await service.join(IDS);
    const heartbeat = { connId: 'c', patchState: deep(129) };
    await expect(service.heartbeat(heartbeat)).rejects.toEqual(tooDeep('patchState', 129));
    await service.leave('c');
  });
});
