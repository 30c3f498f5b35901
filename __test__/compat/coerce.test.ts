// Values that the legacy service accepts although its types forbid them: Rollcall accepts them too,
// or refuses them and lists them in docs/guide/migrating-differences.md. (differential.test.ts
// compares both implementations directly.)
import type { Redis } from 'ioredis';
import {
  type ChannelMetadataParams,
  HeartbeatBatcher,
  type HeartbeatOptions,
  type MetadataEvent,
  registerPresenceHandlers,
  TransactionalMetadataWrapper,
} from 'rollcall';
import { beforeEach, describe, expect, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { ioredis, serviceOn, socketServer } from './services.js';

const CHANNEL = { channelType: 'doc', channelName: 'one' };
const KEY = 'prs:{chan:doc:one}:meta';

let redis: Redis;
let service: Untyped;
beforeEach(async () => {
  redis = await ioredis();
  service = serviceOn(redis);
});

const change = (rest: object) => ({ ...CHANNEL, ...rest }) as ChannelMetadataParams;

describe('12: epochs', () => {
  test('text is converted to a number; a value below every epoch resolves to false', async () => {
    const [{ epoch }] = await service.join({ roomId: 'r', userId: 'u', connId: 'c', state: null });
    const heartbeat = (given: unknown, x: number) =>
      service.heartbeat({ connId: 'c', epoch: given, patchState: { x } });
    expect(await heartbeat(`${epoch}`, 1)).toBe(true);
    expect(await heartbeat(` ${epoch} `, 2)).toBe(true);
    expect(await heartbeat(BigInt(epoch), 3)).toBe(true);
    for (const stale of [-1, 1.5, 0, '', '123', '-5', null, false, epoch - 0.5, -1e300]) {
      expect(await heartbeat(stale, 4), String(stale)).toBe(false);
    }
    const [entry] = await service.fetchRoomSnapshot('r');
    expect([entry.state, entry.epoch]).toEqual([{ x: 3 }, epoch]);
    expect(await heartbeat(`${epoch + 1}`, 5)).toBe(true);
    for (const none of ['abc', Number.NaN, Number.POSITIVE_INFINITY, {}, [], Symbol('x')]) {
      await expect(heartbeat(none, 6)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });

  test('values that are not objects are refused and not modified', async () => {
    for (const nothing of [Number.NaN, 5, 'x', null, undefined, [], Symbol('x')]) {
      for (const call of ['join', 'heartbeat', 'setChannelMetadata', 'getChannelMetadata']) {
        await expect(service[call](nothing), call).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
        });
      }
      const wrong = [{ data: [nothing] }, { options: nothing ?? Number.NaN }];
      for (const rest of wrong) {
        const set = service.setChannelMetadata(change(rest));
        await expect(set).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      }
    }
  });

  test('null as a state or a patch counts as absent', async () => {
    expect(
      await service.join({ roomId: 'r', userId: 'u', connId: 'c', state: null }),
    ).toMatchObject([{ state: {} }]);
    expect(await service.heartbeat({ connId: 'c', patchState: null })).toBe(false);
  });
});

describe('12: metadata', () => {
  test('values that are numbers, booleans or null are converted to text', async () => {
    const data = [
      { key: 'n', value: 5 },
      { key: 'f', value: true },
      { key: 'e', value: null },
      { key: 7, value: '7' },
    ];
    const { metadata } = await service.setChannelMetadata(change({ data }));
    const one = (value: string) => ({ value, revision: 1 });
    expect(metadata).toEqual({ n: one('5'), f: one('true'), e: one(''), 7: one('7') });
    const update = change({ data: [{ key: 'n', value: 6 }] });
    expect((await service.updateChannelMetadata(update)).metadata.n).toEqual({
      value: '6',
      revision: 2,
    });
    for (const value of [{}, [], () => {}]) {
      const refused = service.setChannelMetadata(change({ data: [{ key: 'n', value }] }));
      await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });

  test('revisions that are text are converted to numbers', async () => {
    const data = [{ key: 'k', value: 'v', revision: '7' }];
    const options = { majorRevision: '0' };
    const set = await service.setChannelMetadata(change({ data, options }));
    expect(set.metadata.k.revision).toBe(7);
    const items = [{ key: 'k', revision: '7' }];
    const update = change({ data: items, options: { majorRevision: '1' } });
    expect((await service.updateChannelMetadata(update)).metadata.k.revision).toBe(8);
    await expect(service.updateChannelMetadata(update)).rejects.toMatchObject({
      code: 'METADATA_CONFLICT',
      message: 'Expected major revision 1, but got 2',
    });
    for (const majorRevision of ['x', 1.5, Number.NaN]) {
      const refused = service.setChannelMetadata(change({ options: { majorRevision } }));
      await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });

  test('empty names, null, and flags of any type', async () => {
    const data = [{ key: 'k', value: 'v' }];
    const options = { lockName: '', addUserId: 1, addTimestamp: 0 };
    const set = change({ data, options, actorUserId: '' });
    expect((await service.setChannelMetadata(set)).metadata.k).toEqual({ value: 'v', revision: 1 });
    await service.setChannelMetadata(change({ data, options: null, actorUserId: null }));
    const named = change({
      data,
      options: { addUserId: 'yes', lockName: null },
      actorUserId: 'me',
    });
    expect((await service.setChannelMetadata(named)).metadata.k.authorUid).toBe('me');
    expect((await service.removeChannelMetadata(change({ data: null }))).totalCount).toBe(0);
    expect((await service.setChannelMetadata(change({ data: null }))).totalCount).toBe(0);
    await expect(service.updateChannelMetadata(change({ data: null }))).rejects.toMatchObject({
      code: 'METADATA_INVALID',
    });
    expect((await service.getChannelMetadata({ ...CHANNEL, actorUserId: '' })).majorRevision).toBe(
      5,
    );
    const locked = change({ options: { lockName: 'l' }, actorUserId: '' });
    await redis.set('prs:lock:l', 'ada');
    await expect(service.setChannelMetadata(locked)).rejects.toMatchObject({
      message: 'Lock "l" requires an authenticated user',
    });
  });

  test('stored items without text are read as absent', async () => {
    const odd = '{"toString":5,"valueOf":null}';
    const items = `{"a":{"value":${odd},"revision":${odd}},"b":{"value":[${odd}],"revision":1}}`;
    await redis.hset(KEY, { items, totalCount: '2', majorRevision: '1' });
    expect((await service.getChannelMetadata(CHANNEL)).metadata).toEqual({
      a: { value: '', revision: 0 },
      b: { value: '', revision: 1 },
    });
    const events: MetadataEvent[] = [];
    await service.subscribeMetadata((event: MetadataEvent) => void events.push(event));
    await service.removeChannelMetadata(CHANNEL);
    await eventually(() => expect(events[0]?.items).toHaveLength(2));
  });

  test('stored items in other forms are read unchanged', async () => {
    const items =
      '{"n":{"value":5,"revision":"3","updated":7,"authorUid":"a"},"none":null,"text":"x",' +
      '"e":{"value":null},"__proto__":{"value":true,"revision":2},"ok":{"value":"v","revision":1}}';
    await redis.hset(KEY, { items, totalCount: '6', majorRevision: '4' });
    const expected = JSON.parse(
      '{"n":{"value":"5","revision":3,"authorUid":"a"},"e":{"value":"","revision":0},' +
        '"__proto__":{"value":"true","revision":2},"ok":{"value":"v","revision":1}}',
    );
    const record = await service.getChannelMetadata(CHANNEL);
    expect(JSON.stringify(record.metadata)).toBe(JSON.stringify(expected));
    expect(record.totalCount).toBe(6);

    const events: MetadataEvent[] = [];
    await service.subscribeMetadata((event: MetadataEvent) => void events.push(event));
    const update = change({ data: [{ key: 'n' }, { key: 'e', value: 'x' }] });
    expect((await service.updateChannelMetadata(update)).metadata).toMatchObject({
      n: { value: '5', revision: 4 },
      e: { value: 'x', revision: 1 },
    });
    await eventually(() => expect(events).toHaveLength(1));
    expect(events[0]?.items).toEqual([
      { key: 'n', value: '5', revision: 4 },
      { key: 'e', value: 'x', revision: 1 },
    ]);
  });
});

describe('12: sockets', () => {
  async function serve() {
    const sockets = await socketServer();
    await service.createSocketBridge(sockets.io);
    registerPresenceHandlers({ io: sockets.io, logger: {} }, service);
    return sockets;
  }
  const join = { roomId: 'r', userId: 'u' };

  test('a heartbeat needs no payload, and takes an epoch as text', async () => {
    const socket = await (await serve()).connect();
    const { self } = await socket.emitWithAck('presence:join', join);
    const alive = { ok: true, changed: false, epoch: self.epoch };
    expect(await socket.emitWithAck('presence:heartbeat')).toEqual(alive);
    expect(await socket.emitWithAck('presence:heartbeat', null)).toEqual(alive);
    const heartbeat = (payload: object) => socket.emitWithAck('presence:heartbeat', payload);
    expect(await heartbeat({ epoch: `${self.epoch}` })).toEqual(alive);
    expect(await heartbeat({ epoch: '123' })).toMatchObject({ ok: false, code: 'STALE_EPOCH' });
    expect(await heartbeat({ epoch: 'x' })).toMatchObject({ ok: false, code: 'INVALID_ARGUMENT' });
  });

  test('revisions may be text; values and flags are not converted', async () => {
    const socket = await (await serve()).connect();
    const set = (rest: object) =>
      socket.emitWithAck('metadata:setChannel', { ...CHANNEL, ...rest });
    const data = [{ key: 'k', value: 'v', revision: '7' }];
    expect(await set({ data, options: { majorRevision: '0' } })).toMatchObject({
      ok: true,
      metadata: { k: { value: 'v', revision: 7 } },
    });
    for (const rest of [
      { data: [{ key: 'k', value: 5 }] },
      { data: [{ key: 'k', revision: '1.5' }] },
      { options: { lockName: '' } },
      { options: { addUserId: 1 } },
      { options: null },
    ]) {
      expect(await set(rest), JSON.stringify(rest)).toMatchObject({
        ok: false,
        code: 'INVALID_ARGUMENT',
      });
    }
  });

  test('socket.data.presenceUserId, set by a middleware, is the actor of a socket that has not joined', async () => {
    const { io, connect } = await serve();
    io.use((socket, next) => {
      socket.data.presenceUserId = 'ada';
      next();
    });
    const socket = await connect();
    await redis.set('prs:lock:l', 'ada');
    const change = {
      ...CHANNEL,
      data: [{ key: 'k' }],
      options: { lockName: 'l', addUserId: true },
    };
    const set = () => socket.emitWithAck('metadata:setChannel', change);
    expect(await set()).toMatchObject({ ok: true, metadata: { k: { authorUid: 'ada' } } });
    // From then on the user that has joined counts; after a leave there is none.
    await socket.emitWithAck('presence:join', join);
    expect(await set()).toMatchObject({ ok: false, error: 'Lock "l" is held by a different user' });
    await socket.emitWithAck('presence:leave');
    expect(await set()).toMatchObject({
      ok: false,
      error: 'Lock "l" requires an authenticated user',
    });
  });

  test('socket.data keeps the ids in an async disconnect handler, even after the leave', async () => {
    const { io, connect } = await serve();
    const seen: unknown[] = [];
    io.on('connection', (socket) => {
      socket.on('disconnect', async () => {
        seen.push({ ...socket.data });
        await eventually(async () => expect(await redis.exists(`prs:conn:${socket.id}`)).toBe(0));
        seen.push({ ...socket.data });
      });
    });
    const socket = await connect();
    await socket.emitWithAck('presence:join', join);
    socket.disconnect();
    await eventually(() => expect(seen).toHaveLength(2));
    const ids = { presenceRoomId: 'r', presenceUserId: 'u' };
    expect(seen).toEqual([ids, ids]);
  });

  test('a plain adapter around the server emits to the sockets of all nodes', async () => {
    const rooms: string[] = [];
    const to = (room: string) => ({ emit: () => void rooms.push(room) });
    const { io } = await socketServer();
    // The shape of a server with an adapter for several nodes: `local` is for this node's sockets.
    Object.defineProperty(io, 'local', { value: { to: (room: string) => to(`local ${room}`) } });
    await service.createSocketBridge(io);
    await service.createSocketBridge({ to });
    await service.join({ ...join, connId: 'c' });
    await eventually(() => expect(rooms.sort()).toEqual(['local r', 'r']));
  });

  test('parts that are passed to the handlers replace the service', async () => {
    const sockets = await socketServer();
    const used: string[] = [];
    class Audited extends TransactionalMetadataWrapper {
      override setChannelMetadata(params: ChannelMetadataParams) {
        used.push(`set by ${params.actorUserId}`);
        return super.setChannelMetadata(params);
      }
    }
    class Counted extends HeartbeatBatcher {
      override heartbeat(options: HeartbeatOptions) {
        used.push('heartbeat');
        return super.heartbeat(options);
      }
    }
    const batcher = new Counted(service);
    registerPresenceHandlers(
      {
        io: sockets.io,
        logger: {},
        heartbeatBatcher: batcher,
        luaHeartbeatExecutor: null,
        transactionalMetadata: new Audited(service),
      },
      service,
    );
    const socket = await sockets.connect();
    const { self } = await socket.emitWithAck('presence:join', join);
    const alive = { ok: true, changed: false, epoch: self.epoch };
    expect(await socket.emitWithAck('presence:heartbeat')).toEqual(alive);
    expect(await socket.emitWithAck('metadata:setChannel', CHANNEL)).toMatchObject({ ok: true });
    expect(await socket.emitWithAck('metadata:getChannel', CHANNEL)).toMatchObject({ ok: true });
    expect(used).toEqual(['heartbeat', 'set by u']);
    await batcher.dispose();
    expect(await socket.emitWithAck('presence:heartbeat')).toMatchObject({ ok: false });

    const wrong = { io: sockets.io, transactionalMetadata: { setChannelMetadata: 5 } };
    expect(() => (registerPresenceHandlers as Untyped)(wrong, service)).toThrow(
      /^transactionalMetadata.setChannelMetadata must be a function/,
    );
  });

  test('the bridge emits items that were stored in other forms as texts', async () => {
    const socket = await (await serve()).connect();
    await socket.emitWithAck('presence:join', { ...join, roomId: CHANNEL.channelName });
    const items = '{"n":{"value":5,"revision":1}}';
    await redis.hset(KEY, { items, totalCount: '1', majorRevision: '1' });
    const received = new Promise<MetadataEvent>((resolve) =>
      socket.once('metadata:event', resolve),
    );
    await service.removeChannelMetadata(CHANNEL);
    expect((await received).items).toEqual([{ key: 'n', value: '5', revision: 1 }]);
  });
});
