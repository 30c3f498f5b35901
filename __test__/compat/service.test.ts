// PresenceService (spec 10): every method, option and default, on real Redis.
import { Redis } from 'ioredis';
import {
  type PresenceEvent,
  PresenceService,
  presenceKeys,
  registerPresenceHandlers,
} from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { keepLog, rejection, type Untyped } from '../support/clients.js';
import { freePort, sharedRedis, startRedis } from '../support/redis.js';
import { deferred, eventually } from '../support/wait.js';
import { ioredis, OPTIONS, serviceOn, socketServer } from './services.js';

const c = { roomId: 'r', userId: 'u', connId: 'c' };

describe('10: PresenceService', () => {
  test('join resolves to the members of the room, including this connection', async () => {
    const service = serviceOn(await ioredis());
    const before = Date.now();
    const first = await service.join({ ...c, state: { mic: true } });
    expect(first).toEqual([
      { ...c, state: { mic: true }, lastSeenMs: expect.any(Number), epoch: expect.any(Number) },
    ]);
    expect(first[0]?.epoch).toBeGreaterThanOrEqual(before - 1000);
    const second = await service.join({ roomId: 'r', userId: 'v', connId: 'd' });
    expect(second.map(({ connId, state }) => [connId, state]).sort()).toEqual([
      ['c', { mic: true }],
      ['d', {}],
    ]);
    await expect(service.fetchRoomSnapshot('r')).resolves.toHaveLength(2);
    await expect(service.fetchRoomSnapshot('empty')).resolves.toEqual([]);
  });

  test('heartbeat resolves to whether the state has changed', async () => {
    const redis = await ioredis();
    const service = serviceOn(redis);
    const [entry] = await service.join({ ...c, state: { mic: true } });
    const epoch = entry?.epoch ?? 0;
    expect(await service.heartbeat({ connId: 'c' })).toBe(false);
    expect(await service.heartbeat({ connId: 'c', patchState: { mic: true } })).toBe(false);
    expect(await service.heartbeat({ connId: 'c', epoch, patchState: { mic: false } })).toBe(true);
    expect(JSON.parse((await redis.hget('prs:conn:c', 'state')) ?? '')).toEqual({ mic: false });
    expect(await service.heartbeat({ connId: 'c', patchState: { mic: undefined, x: null } })).toBe(
      true,
    );
    expect(await redis.hget('prs:conn:c', 'state')).toBe('{"x":null}');
  });

  test('heartbeat resolves to false for an unknown connection and a stale epoch', async () => {
    const service = serviceOn(await ioredis());
    // Also when this is the first call, which connects.
    expect(await service.heartbeat({ connId: 'nobody' })).toBe(false);
    const [entry] = await service.join(c);
    const stale = { connId: 'c', epoch: (entry?.epoch ?? 0) - 1, patchState: { a: 1 } };
    expect(await service.heartbeat(stale)).toBe(false);
    expect((await service.fetchRoomSnapshot('r'))[0]?.state).toEqual({});
    // Invalid arguments are still refused.
    const error = await rejection(() => service.heartbeat({ connId: '' }));
    expect([error.code, error.message]).toEqual(['INVALID_ARGUMENT', 'connId must not be empty']);
  });

  test('arguments are copied at the call: later changes are not sent', async () => {
    const service = serviceOn(await ioredis());
    await service.client();
    const options = { ...c, state: { n: 1 } };
    const joining = service.join(options);
    options.state.n = 2;
    options.roomId = 'other';
    expect(await joining).toMatchObject([{ roomId: 'r', state: { n: 1 } }]);
  });

  test('leave resolves to the previous place of the connection, or null', async () => {
    const redis = await ioredis();
    const service = serviceOn(redis);
    await service.join(c);
    expect(await service.leave('c')).toEqual({ roomId: 'r', userId: 'u' });
    expect(await service.leave('c')).toBeNull();
    expect(await redis.dbsize()).toBe(0);
  });

  test('3.6 leave and a disconnection do not end a connection that another server has joined since', async () => {
    const redis = await ioredis();
    const [one, two] = [serviceOn(redis), serviceOn(redis)];
    const { io, connect } = await socketServer();
    onTestFinished(registerPresenceHandlers({ io, logger: {} }, one));
    const client = await connect();
    const { id: connId } = client;
    expect(await client.emitWithAck('presence:join', { roomId: 'r', userId: 'u' })).toMatchObject({
      ok: true,
    });
    // The same socket on another server: Socket.IO recovers sessions like this.
    await two.join({ roomId: 'r', userId: 'u', connId: connId ?? '' });
    expect(await one.leave(connId ?? '')).toBeNull();
    const ended = deferred();
    io.sockets.sockets.get(connId ?? '')?.once('disconnect', () => ended.resolve());
    client.close();
    await ended.promise;
    await eventually(async () => (await one.client()).metrics().pendingCalls === 0);
    expect((await two.fetchRoomSnapshot('r')).map((entry) => entry.connId)).toEqual([connId]);
    expect(await two.leave(connId ?? '')).toEqual({ roomId: 'r', userId: 'u' });
  });

  test('subscribe calls the handler for every room until unsubscribing has resolved', async () => {
    const service = serviceOn(await ioredis());
    const events: PresenceEvent[] = [];
    const stop = await service.subscribe((event) => void events.push(event));
    await service.join({ ...c, state: { a: 1 } });
    await service.heartbeat({ connId: 'c', patchState: { a: 2 } });
    await service.join({ ...c, connId: 'd', roomId: 'other' });
    await service.leave('c');
    await eventually(() => expect(events).toHaveLength(4));
    const common = { ...c, ts: expect.any(Number), epoch: events[0]?.epoch };
    expect(events.filter(({ connId }) => connId === 'c')).toEqual([
      { type: 'join', state: { a: 1 }, ...common },
      { type: 'update', state: { a: 2 }, ...common },
      { type: 'leave', state: null, reason: 'left', ...common },
    ]);
    await stop();
    await service.leave('d');
    await service.fetchRoomSnapshot('r');
    expect(events).toHaveLength(4);
  });

  test('a handler that throws or rejects is reported to the logger', async () => {
    const logger = keepLog();
    const service = serviceOn(await ioredis(), { logger });
    const received: string[] = [];
    await service.subscribe(() => {
      throw new Error('thrown by a handler');
    });
    await service.subscribe(async () => {
      throw new Error('rejected by a handler');
    });
    await service.subscribe(({ type }) => void received.push(type));
    await service.join(c);
    await eventually(() => expect(received).toEqual(['join']));
    await eventually(() => {
      const lines = logger.lines.filter((line) => line.startsWith('error'));
      expect(lines).toHaveLength(2);
      expect(lines[0]).toMatch(/^error Presence event handler threw Error: thrown by a handler/);
      expect(lines[1]).toMatch(
        /^error Presence event handler rejected Error: rejected by a handler/,
      );
    });
  });

  test('startReaper removes dead connections, with reason timeout, within reaperIntervalMs', async () => {
    const redis = await ioredis();
    const options = { ttlMs: 100, reaperIntervalMs: 50, reaperLookbackMs: 200 };
    const [one, two] = [serviceOn(redis, options), serviceOn(redis, options)];
    const left: PresenceEvent[] = [];
    await two.subscribe((event) => void (event.type === 'leave' && left.push(event)));
    one.startReaper();
    one.startReaper();
    two.startReaper();
    await one.join(c);
    await eventually(async () => {
      expect(left).toHaveLength(1);
      expect((await redis.keys('*')).filter((key) => !key.startsWith('prs:due:'))).toEqual([]);
    });
    expect(left[0]).toMatchObject({ ...c, reason: 'timeout', state: null });
  });

  test('ttlMs is the TTL of a connection; the default is 30 s', async () => {
    const redis = await ioredis();
    await serviceOn(redis, { ttlMs: 5000 }).join(c);
    expect(await redis.pttl('prs:conn:c')).toBeGreaterThan(3000);
    expect(await redis.pttl('prs:conn:c')).toBeLessThanOrEqual(5000);
    const service = new PresenceService(redis);
    await service.join(c);
    expect(await redis.pttl('prs:conn:c')).toBeGreaterThan(28_000);
    expect(await redis.pttl('prs:conn:c')).toBeLessThanOrEqual(30_000);
    await service.stop();
  });

  test('client() returns the underlying PresenceClient; `client` has further options', async () => {
    const service = serviceOn(await ioredis(), { client: { limits: { maxIdBytes: 3 } } });
    const client = await service.client();
    expect(await service.client()).toBe(client);
    await service.join(c);
    expect(await client.getEpoch('c')).toBe((await service.fetchRoomSnapshot('r'))[0]?.epoch);
    expect(await client.getEpoch('d')).toBeNull();
    expect(client.metrics().joins).toBe(1);
    const error = await rejection(() => service.join({ ...c, roomId: 'long' }));
    expect(error.message).toContain('maxIdBytes');
  });
});

describe('10: connecting and stopping', () => {
  test('the constructor does not block; the first call connects', async () => {
    const port = await freePort();
    const redis = new Redis({ port, lazyConnect: true });
    const service = serviceOn(redis, { client: { limits: { connectTimeoutMs: 500 } } });
    expect(redis.status).toBe('wait');
    // No server is listening yet: the call fails with that reason, and a later call connects.
    const error = await rejection(() => service.join(c));
    expect(error.code).toBe('UNAVAILABLE');
    await using server = await startRedis({ config: {} });
    const late = serviceOn(server.url);
    expect(await late.join(c)).toHaveLength(1);
    expect(redis.status).toBe('wait');
  });

  test('a call connects after an earlier call has failed to reach Redis', async () => {
    await using server = await startRedis();
    await server.stop();
    const service = serviceOn(server.url, { client: { limits: { connectTimeoutMs: 500 } } });
    expect((await rejection(() => service.leave('c'))).code).toBe('UNAVAILABLE');
    await server.start();
    expect(await service.leave('c')).toBeNull();
  });

  test('startReaper retries while Redis is down, and logs that once', async () => {
    await using server = await startRedis();
    const joining = serviceOn(server.url, { ttlMs: 300 });
    await server.stop();
    const logger = keepLog();
    const service = serviceOn(server.url, {
      ttlMs: 300,
      logger,
      client: { limits: { connectTimeoutMs: 200 } },
    });
    service.startReaper();
    await eventually(() => {
      expect(logger.lines.join('\n')).toMatch(/error Starting the presence reaper failed/);
    });
    await server.start();
    await joining.join(c);
    const redis = await server.client();
    await eventually(
      async () => expect(await redis.exists(presenceKeys.activeRoomsKey())).toBe(0),
      {
        timeoutMs: 10_000,
      },
    );
    expect(logger.lines.filter((line) => line.includes('reaper failed'))).toHaveLength(1);
  });

  test('stop ends reaper, subscriptions and connections, also when called twice; a later call reconnects', async () => {
    await using server = await startRedis();
    const admin = await server.client();
    const count = async () =>
      ((await admin.client('LIST')) as string)
        .split('\n')
        .filter((line) => line.includes('user=default')).length;
    const service = serviceOn(server.url, { ttlMs: 200 });
    const events: PresenceEvent[] = [];
    await service.subscribe((event) => void events.push(event));
    service.startReaper();
    await service.join(c);
    await eventually(() => expect(events.map(({ type }) => type)).toEqual(['join', 'leave']));
    expect(await count()).toBe(2);
    await Promise.all([service.stop(), service.stop()]);
    await service.stop();
    await eventually(async () => expect(await count()).toBe(0));
    await service.join(c);
    expect(await service.fetchRoomSnapshot('r')).toHaveLength(1);
    expect(events).toHaveLength(2);
    // The reaper has stopped, so the room stays listed.
    await eventually(async () => expect(await admin.exists('prs:conn:c')).toBe(0));
    expect(await admin.smembers('prs:active_rooms')).toEqual(['r']);
  });

  test('stop while connecting', async () => {
    const server = await sharedRedis();
    const service = serviceOn(server.url);
    const call = service.leave('nobody').catch((error) => error.code);
    await service.stop();
    expect([null, 'CLOSED']).toContain(await call);
  });
});

describe('10: invalid options are refused at once, and the message names them', () => {
  const cases: [string, unknown[], RegExp][] = [
    ['no redis', [undefined, OPTIONS], /^redis must be an ioredis client, a node-redis client, or/],
    ['a number', [6379, OPTIONS], /^redis must be/],
    [
      'an object that is not a client',
      [{}, OPTIONS],
      /^redis is no client whose options can be read/,
    ],
    ['ttlMs', ['redis://h', { ...OPTIONS, ttlMs: '5' }], /^ttlMs must be a whole number from 1/],
    ['ttlMs 0', ['redis://h', { ...OPTIONS, ttlMs: 0 }], /^ttlMs must be/],
    ['reaperIntervalMs', ['redis://h', { ...OPTIONS, reaperIntervalMs: 0 }], /^reaperIntervalMs/],
    ['reaperLookbackMs', ['redis://h', { ...OPTIONS, reaperLookbackMs: -1 }], /^reaperLookbackMs/],
    ['logger', ['redis://h', { ...OPTIONS, logger: 5 }], /^logger must be an object/],
    ['options', ['redis://h', null], /^PresenceService takes an object, got null/],
    ['client', ['redis://h', { ...OPTIONS, client: 1 }], /^client takes an object/],
  ];
  test.each(cases)('%s', (_name, args, message) => {
    const make = () => new (PresenceService as Untyped)(...args);
    expect(make).toThrow(message);
    expect(make).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  test.each([
    ['join', [undefined], /^join takes an object/],
    ['join', [{ ...c, userId: 5 }], /^userId must be a string, got 5/],
    ['join', [{ ...c, state: [] }], /^state must be a JSON object, got an array/],
    ['heartbeat', [undefined], /^heartbeat takes an object/],
    ['heartbeat', [{ connId: 'c', epoch: 'x' }], /^epoch must be a whole number/],
    ['heartbeat', [{ connId: 'c', patchState: 'x' }], /^patchState must be a JSON object/],
    ['leave', [null], /^connId must be a string, got null/],
    ['fetchRoomSnapshot', [''], /^roomId must not be empty/],
    ['subscribe', [undefined], /^handler must be a function/],
    ['createSocketBridge', [{}], /^adapter must have a method to\(room\)/],
    ['createSocketBridge', [{ to() {} }, { eventName: 5 }], /^eventName must be a string/],
    ['createSocketBridge', [{ to() {} }, { metadataEventName: '' }], /^metadataEventName must be/],
  ])('%s of %j rejects', async (method, args, message) => {
    const service: Untyped = serviceOn('memory://');
    const error = await rejection(() => service[method](...args));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(message);
  });
});

describe('10: presenceKeys', () => {
  test('match the table of names', () => {
    expect({
      activeRooms: presenceKeys.activeRoomsKey(),
      members: presenceKeys.roomMembersKey('r'),
      conns: presenceKeys.roomConnectionsKey('r'),
      meta: presenceKeys.roomConnMetadataKey('r'),
      lastSeen: presenceKeys.roomLastSeenKey('r'),
      events: presenceKeys.roomEventsChannel('r'),
      conn: presenceKeys.connKey('c:1'),
      user: presenceKeys.userConnsKey('ü'),
      pattern: presenceKeys.eventsPattern,
      lock: presenceKeys.lockKey('l'),
    }).toEqual({
      activeRooms: 'prs:active_rooms',
      members: 'prs:{room:r}:members',
      conns: 'prs:{room:r}:conns',
      meta: 'prs:{room:r}:conn_meta',
      lastSeen: 'prs:{room:r}:last_seen',
      events: 'prs:{room:r}:events',
      conn: 'prs:conn:c:1',
      user: 'prs:user:ü:conns',
      pattern: 'prs:{room:*}:events',
      lock: 'prs:lock:l',
    });
    expect(() => (presenceKeys.connKey as Untyped)(5)).toThrow(/^connId must be a string/);
  });

  test('match the keys that the service writes', async () => {
    const redis = await ioredis();
    await serviceOn(redis).join(c);
    expect(await redis.smembers(presenceKeys.activeRoomsKey())).toEqual(['r']);
    expect(await redis.smembers(presenceKeys.roomMembersKey('r'))).toEqual(['u']);
    expect(await redis.smembers(presenceKeys.roomConnectionsKey('r'))).toEqual(['c']);
    expect(await redis.hkeys(presenceKeys.roomConnMetadataKey('r'))).toEqual(['c']);
    expect(await redis.zrange(presenceKeys.roomLastSeenKey('r'), '0', '-1')).toEqual(['c']);
    expect(await redis.hget(presenceKeys.connKey('c'), 'room_id')).toBe('r');
    expect(await redis.smembers(presenceKeys.userConnsKey('u'))).toEqual(['c']);
  });
});
