// Channel metadata with the interface of the legacy implementation (spec 10, 7): the methods of
// PresenceService, the error classes, the socket events and the bridge, on real Redis.
import type { Redis } from 'ioredis';
import {
  initPresence,
  MetadataConflictError,
  MetadataError,
  type MetadataEvent,
  MetadataLockError,
  MetadataValidationError,
  presenceKeys,
  RollcallError,
  type StartingPresence,
} from 'rollcall';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { keepLog, rejection, type Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import { ioredis, type SocketServer, serviceOn, socketServer } from './services.js';

const channel = { channelType: 'doc', channelName: 'readme' };
const commonFields = {
  ...channel,
  timestamp: expect.any(Number),
};

describe('10: metadata of PresenceService', () => {
  test('set, update, get, remove: results as in section 7', async () => {
    const redis = await ioredis();
    const service = serviceOn(redis);
    expect(await service.getChannelMetadata(channel)).toEqual({
      ...commonFields,
      totalCount: 0,
      majorRevision: 0,
      metadata: {},
    });
    const data = [{ key: 'title', value: 'Draft' }, { key: 'empty' }];
    expect(await service.setChannelMetadata({ ...channel, data })).toEqual({
      ...commonFields,
      totalCount: 2,
      majorRevision: 1,
      metadata: { title: { value: 'Draft', revision: 1 }, empty: { value: '', revision: 1 } },
    });
    const updated = await service.updateChannelMetadata({
      ...channel,
      data: [{ key: 'title', value: 'Final', revision: 1 }],
      options: { majorRevision: 1, addTimestamp: true, addUserId: true },
      actorUserId: 'ada',
    });
    expect(updated.metadata.title).toEqual({
      value: 'Final',
      revision: 2,
      updated: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
      authorUid: 'ada',
    });
    expect(await service.getChannelMetadata(channel)).toEqual({
      ...updated,
      timestamp: expect.any(Number),
    });
    expect(
      await service.removeChannelMetadata({ ...channel, data: [{ key: 'empty' }] }),
    ).toMatchObject({ totalCount: 1, majorRevision: 3 });
    expect(await service.removeChannelMetadata(channel)).toMatchObject({
      totalCount: 0,
      majorRevision: 4,
      metadata: {},
    });
    expect(
      await redis.hget(presenceKeys.channelMetadataKey('doc', 'readme'), 'majorRevision'),
    ).toBe('4');
  });

  test('subscribeMetadata calls the handler for every channel until unsubscribed', async () => {
    const logger = keepLog();
    const service = serviceOn(await ioredis(), { logger });
    const events: MetadataEvent[] = [];
    await service.subscribeMetadata(() => {
      throw new Error('thrown');
    });
    await service.subscribeMetadata(() => Promise.reject(new Error('rejected')));
    const stop = await service.subscribeMetadata((event) => void events.push(event));
    const data = [{ key: 'k', value: 'v' }];
    await service.setChannelMetadata({ ...channel, data, actorUserId: 'ada' });
    await service.removeChannelMetadata({ ...channel, channelName: 'nothing there' });
    await service.setChannelMetadata({ channelType: 'other', channelName: 'x:y', data: [] });
    await eventually(() => expect(events).toHaveLength(2));
    expect(events).toEqual([
      {
        ...commonFields,
        operation: 'set',
        items: [{ key: 'k', value: 'v', revision: 1 }],
        majorRevision: 1,
        authorUid: 'ada',
      },
      {
        channelType: 'other',
        channelName: 'x:y',
        operation: 'set',
        items: [],
        majorRevision: 1,
        timestamp: expect.any(Number),
      },
    ]);
    await eventually(() => {
      expect(logger.lines.join('\n')).toMatch(/error Metadata event handler threw Error: thrown/);
      expect(logger.lines.join('\n')).toMatch(/Metadata event handler rejected Error: rejected/);
    });
    await stop();
    await service.removeChannelMetadata(channel);
    await service.getChannelMetadata(channel);
    expect(events).toHaveLength(2);
  });

  test('the error classes, with code, message and the current record', async () => {
    const redis = await ioredis();
    const service = serviceOn(redis);
    const data = [{ key: 'k', value: 'v' }];
    const update = (more: object = {}) =>
      rejection(() => service.updateChannelMetadata({ ...channel, data, ...more }));

    const missing = await update();
    expect(missing).toBeInstanceOf(MetadataValidationError);
    expect([missing.code, missing.message, missing.name]).toEqual([
      'METADATA_INVALID',
      'Channel metadata does not exist',
      'MetadataValidationError',
    ]);
    await service.setChannelMetadata({ ...channel, data });
    expect((await update({ data: [{ key: 'x' }] })).message).toBe(
      'Metadata item "x" does not exist',
    );
    const none = await update({ data: [] });
    expect(none).toBeInstanceOf(MetadataValidationError);
    expect(await rejection(() => service.updateChannelMetadata(channel))).toBeInstanceOf(
      MetadataValidationError,
    );

    const conflict = await update({ options: { majorRevision: 7 } });
    expect(conflict).toBeInstanceOf(MetadataConflictError);
    expect([conflict.code, conflict.message]).toEqual([
      'METADATA_CONFLICT',
      'Expected major revision 7, but got 1',
    ]);
    expect(conflict.current).toMatchObject({ majorRevision: 1, metadata: { k: { value: 'v' } } });
    const revision = await update({ data: [{ key: 'k', revision: 5 }] });
    expect(revision).toBeInstanceOf(MetadataConflictError);
    expect(revision.message).toBe('Revision mismatch for key "k"');

    const options = { lockName: 'l' };
    const unheld = await update({ options, actorUserId: 'ada' });
    expect(unheld).toBeInstanceOf(MetadataLockError);
    expect([unheld.code, unheld.message]).toEqual([
      'METADATA_LOCK',
      'Lock "l" is not held by any user',
    ]);
    await redis.set(presenceKeys.lockKey('l'), 'ada');
    expect((await update({ options })).message).toBe('Lock "l" requires an authenticated user');
    expect((await update({ options, actorUserId: 'bob' })).message).toBe(
      'Lock "l" is held by a different user',
    );
    await service.updateChannelMetadata({ ...channel, data, options, actorUserId: 'ada' });

    for (const error of [missing, conflict, unheld]) {
      expect(error).toBeInstanceOf(MetadataError);
      expect(error).toBeInstanceOf(RollcallError);
      expect(error).toBeInstanceOf(Error);
    }
    // A server can also construct them.
    const made = new MetadataConflictError('mine', { cause: conflict });
    expect([made.code, made.message, made.cause]).toEqual(['METADATA_CONFLICT', 'mine', conflict]);
    expect(new MetadataLockError('mine').code).toBe('METADATA_LOCK');
    expect(new MetadataValidationError('mine').code).toBe('METADATA_INVALID');
    expect(new MetadataError('mine', 'METADATA_LOCK').code).toBe('METADATA_LOCK');
  });

  test('7.9, 7.10 upsert and ttlMs of a call, and metadataTtlMs of the service', async () => {
    const redis = await ioredis();
    const service = serviceOn(redis, { client: { metadataTtlMs: 50_000 } });
    const key = presenceKeys.channelMetadataKey('doc', 'readme');
    const change = { ...channel, data: [{ key: 'k', value: 'v' }] };
    const options = { upsert: true };
    expect((await service.updateChannelMetadata({ ...change, options })).majorRevision).toBe(1);
    expect(await redis.pttl(key)).toBeLessThanOrEqual(50_000);
    expect(await redis.pttl(key)).toBeGreaterThan(40_000);
    await service.updateChannelMetadata({ ...change, options: { ttlMs: 90_000 } });
    expect(await redis.pttl(key)).toBeGreaterThan(80_000);
  });

  test('presenceKeys of channels', () => {
    expect(presenceKeys.channelMetadataKey('t', 'a:b')).toBe('prs:{chan:t:a:b}:meta');
    expect(presenceKeys.channelMetadataEventsChannel('t', 'n')).toBe('prs:{chan:t:n}:meta_events');
    expect(presenceKeys.metadataEventsPattern).toBe('prs:{chan:*}:meta_events');
    expect(presenceKeys.channelMetadataKey('a:b', 'c')).toBe('prs:{chan:a:b:c}:meta');
    expect(() => (presenceKeys.channelMetadataKey as Untyped)('a')).toThrow(/^channelName must be/);
  });
});

describe('10: metadata over sockets', () => {
  let redis: Redis;
  let sockets: SocketServer;
  let handle: StartingPresence;
  beforeEach(async () => {
    redis = await ioredis();
    sockets = await socketServer();
    handle = initPresence({ io: sockets.io, redis, logger: {} });
    onTestFinished(() => handle.dispose());
    await handle.ready;
  });

  test('metadata:setChannel, :updateChannel, :removeChannel, :getChannel', async () => {
    const socket = await sockets.connect();
    await socket.emitWithAck('presence:join', { roomId: 'readme', userId: 'ada' });
    const received: Untyped[] = [];
    socket.on('metadata:event', (event) => received.push(event));
    const call = (event: string, more: object = {}) =>
      socket.emitWithAck(`metadata:${event}`, { ...channel, ...more });

    expect(await call('getChannel')).toEqual({
      ok: true,
      ...commonFields,
      totalCount: 0,
      majorRevision: 0,
      metadata: {},
    });
    const options = { addUserId: true };
    const set = await call('setChannel', { data: [{ key: 'k', value: 'v' }], options });
    expect(set).toEqual({
      ok: true,
      ...commonFields,
      totalCount: 1,
      majorRevision: 1,
      // The author is the user that joined on this socket, independent of the payload.
      metadata: { k: { value: 'v', revision: 1, authorUid: 'ada' } },
    });
    const updated = await call('updateChannel', {
      data: [{ key: 'k', value: 'w' }],
      options,
      actorUserId: 'mallory',
    });
    expect(updated).toMatchObject({
      ok: true,
      majorRevision: 2,
      metadata: { k: { value: 'w', revision: 2, authorUid: 'ada' } },
    });
    expect(await call('removeChannel', { data: [{ key: 'k' }] })).toMatchObject({
      ok: true,
      majorRevision: 3,
      totalCount: 0,
    });
    // The sockets of the room with the name of the channel receive the event.
    await eventually(() => expect(received).toHaveLength(3));
    expect(received.map(({ operation, authorUid }) => [operation, authorUid])).toEqual([
      ['set', 'ada'],
      ['update', 'ada'],
      ['remove', 'ada'],
    ]);
  });

  test('the actor is the user of the socket, or none', async () => {
    const [ada, bob, nobody] = [
      await sockets.connect(),
      await sockets.connect(),
      await sockets.connect(),
    ];
    await redis.set('prs:lock:l', 'ada');
    const payload = { ...channel, data: [{ key: 'k' }], options: { lockName: 'l' } };
    ada.emit('presence:join', { roomId: 'r', userId: 'ada' });
    await bob.emitWithAck('presence:join', { roomId: 'r', userId: 'bob' });
    const set = 'metadata:setChannel';
    // A request sent directly after a join belongs to that join.
    expect(await ada.emitWithAck(set, payload)).toMatchObject({ ok: true });
    expect(await bob.emitWithAck(set, payload)).toEqual({
      ok: false,
      error: 'Lock "l" is held by a different user',
      code: 'METADATA_LOCK',
    });
    expect(await nobody.emitWithAck(set, payload)).toMatchObject({
      ok: false,
      error: 'Lock "l" requires an authenticated user',
    });
    await ada.emitWithAck('presence:leave');
    expect(await ada.emitWithAck(set, payload)).toMatchObject({ ok: false, code: 'METADATA_LOCK' });
  });

  test('7.9, 7.10 upsert over sockets; clients cannot set the TTL of a record', async () => {
    const socket = await sockets.connect();
    const update = (options: object) =>
      socket.emitWithAck('metadata:updateChannel', { ...channel, data: [{ key: 'k' }], options });
    expect(await update({})).toMatchObject({ ok: false, code: 'METADATA_INVALID' });
    expect(await update({ upsert: true, ttlMs: 90_000 })).toMatchObject({
      ok: true,
      totalCount: 1,
    });
    expect(await redis.pttl(presenceKeys.channelMetadataKey('doc', 'readme'))).toBe(-1);
    expect(await update({ upsert: 1 })).toMatchObject({ ok: false, code: 'INVALID_ARGUMENT' });
  });

  test('a conflict is acknowledged with the current record', async () => {
    const socket = await sockets.connect();
    const set = (options: object) =>
      socket.emitWithAck('metadata:setChannel', { ...channel, data: [{ key: 'k' }], options });
    await set({});
    expect(await set({ majorRevision: 0 })).toEqual({
      ok: false,
      error: 'Expected major revision 0, but got 1',
      code: 'METADATA_CONFLICT',
      current: {
        ...commonFields,
        totalCount: 1,
        majorRevision: 1,
        metadata: { k: expect.anything() },
      },
    });
  });

  const refusals: [string, unknown, RegExp][] = [
    ['setChannel', undefined, /^the payload of metadata:setChannel must be an object/],
    ['getChannel', 'x', /^the payload of metadata:getChannel must be an object, got a string/],
    ['getChannel', { channelType: 't' }, /^channelName must be a string, got undefined/],
    ['getChannel', { channelName: 'n' }, /^channelType must be a string, got undefined/],
    ['getChannel', { channelName: 'n', channelType: 'a:b' }, /^channelType must not hold a colon/],
    ['setChannel', { ...channel, data: 5 }, /^data must be an array/],
    ['setChannel', { ...channel, data: [5] }, /^data\[0\] takes an object/],
    ['updateChannel', { ...channel, data: [{ key: 5 }] }, /^data\[0\]\.key must be a string/],
    ['updateChannel', { ...channel, data: [{ key: 'k', value: 1 }] }, /^data\[0\]\.value must be/],
    [
      'updateChannel',
      { ...channel, data: [{ key: 'k', revision: 'x' }] },
      /^data\[0\]\.revision must be/,
    ],
    ['removeChannel', { ...channel, options: [] }, /^options takes an object/],
    ['removeChannel', { ...channel, options: { majorRevision: 'x' } }, /^options\.majorRevision/],
    ['setChannel', { ...channel, options: { lockName: 1 } }, /^options\.lockName must be/],
    ['setChannel', { ...channel, options: { addTimestamp: 1 } }, /^options\.addTimestamp must be/],
    ['setChannel', { ...channel, options: { addUserId: 'y' } }, /^options\.addUserId must be/],
  ];
  test.each(refusals)(
    'metadata:%s of %j is refused, naming the field',
    async (event, args, text) => {
      const socket = await sockets.connect();
      const ack = await socket.emitWithAck(
        `metadata:${event}`,
        ...(args === undefined ? [] : [args]),
      );
      expect(ack).toEqual({
        ok: false,
        error: expect.stringMatching(text),
        code: 'INVALID_ARGUMENT',
      });
      expect(await redis.dbsize()).toBe(0);
    },
  );

  test('metadataEventName; getTransactionalMetadata has the three mutations', async () => {
    const emitted: unknown[] = [];
    const to = (room: string) => ({
      emit: (event: string, payload: Untyped) => emitted.push([room, event, payload.operation]),
    });
    const bridge = await handle.service.createSocketBridge({ to }, { metadataEventName: 'meta' });
    const metadata = handle.getTransactionalMetadata();
    const data = [{ key: 'k', value: 'v' }];
    expect(await metadata.setChannelMetadata({ ...channel, data })).toMatchObject({
      majorRevision: 1,
    });
    expect(await metadata.updateChannelMetadata({ ...channel, data })).toMatchObject({
      majorRevision: 2,
    });
    expect(await metadata.removeChannelMetadata(channel)).toMatchObject({ majorRevision: 3 });
    await eventually(() => expect(emitted).toHaveLength(3));
    expect(emitted).toEqual([
      ['readme', 'meta', 'set'],
      ['readme', 'meta', 'update'],
      ['readme', 'meta', 'remove'],
    ]);
    await bridge.stop();
    await metadata.setChannelMetadata({ ...channel, data });
    await metadata.setChannelMetadata({ ...channel, data });
    expect(emitted).toHaveLength(3);
  });
});
