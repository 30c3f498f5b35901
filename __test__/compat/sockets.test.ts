// The socket protocol (spec 10): every event, acknowledgement and refusal, by real Socket.IO clients
// against handlers on real Redis; createSocketBridge; initPresence.
import type { Redis } from 'ioredis';
import {
  initPresence,
  PresenceService,
  registerPresenceHandlers,
  type StartingPresence,
} from 'rollcall';
import type { Socket } from 'socket.io-client';
import { beforeEach, describe, expect, test } from 'vitest';
import { keepLog, type Untyped } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import {
  ioredis,
  OPTIONS,
  type SocketServer,
  serviceOn,
  socketServer,
  startPresence,
} from './services.js';

let redis: Redis;
let sockets: SocketServer;
let handle: StartingPresence;

const start = (options: Untyped = {}) => startPresence(sockets.io, redis, options);

/** Records the events of a socket. */
function recordEvents(socket: Socket): Untyped[] {
  const events: Untyped[] = [];
  socket.on('presence:event', (event) => events.push(event));
  return events;
}

describe('10: the socket protocol', () => {
  beforeEach(async () => {
    redis = await ioredis();
    sockets = await socketServer();
    handle = start();
    await handle.ready;
  });

  test('presence:join', async () => {
    const socket = await sockets.connect();
    const received = recordEvents(socket);
    const ack = await socket.emitWithAck('presence:join', {
      roomId: 'r',
      userId: 'u',
      state: { mic: true },
    });
    const entry = { roomId: 'r', userId: 'u', connId: socket.id, state: { mic: true } };
    const epoch = ack.self.epoch;
    expect(ack).toEqual({
      ok: true,
      snapshot: [{ ...entry, lastSeenMs: expect.any(Number), epoch }],
      self: { connId: socket.id, epoch: expect.any(Number) },
    });
    const [{ data } = { data: {} }] = await sockets.io.fetchSockets();
    expect(data).toEqual({ presenceRoomId: 'r', presenceUserId: 'u' });
    // It receives its own event, too.
    await eventually(() =>
      expect(received).toEqual([{ type: 'join', ...entry, ts: expect.any(Number), epoch }]),
    );
    // Without a state: {}. A second join of the room is a new join with a new epoch.
    const again = await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    expect(again.self.epoch).toBeGreaterThan(epoch);
    expect(again.snapshot).toMatchObject([{ state: {} }]);
  });

  test('presence:heartbeat', async () => {
    const socket = await sockets.connect();
    const { self } = await socket.emitWithAck('presence:join', {
      roomId: 'r',
      userId: 'u',
      state: { a: 1 },
    });
    const { epoch } = self;
    const heartbeat = (payload: unknown) => socket.emitWithAck('presence:heartbeat', payload);
    expect(await heartbeat({})).toEqual({ ok: true, changed: false, epoch });
    expect(await heartbeat({ epoch })).toEqual({ ok: true, changed: false, epoch });
    expect(await heartbeat({ patchState: { a: 2 } })).toEqual({ ok: true, changed: true, epoch });
    expect(await heartbeat({ epoch, patchState: { a: 2, b: null } })).toEqual({
      ok: true,
      changed: true,
      epoch,
    });
    expect(await redis.hget(`prs:conn:${socket.id}`, 'state')).toBe('{"a":2,"b":null}');
    expect(await heartbeat({ epoch: epoch - 1 })).toMatchObject({ ok: false, code: 'STALE_EPOCH' });
    await redis.del(`prs:conn:${socket.id}`);
    expect(await heartbeat({ epoch })).toMatchObject({ ok: false, code: 'CONNECTION_NOT_FOUND' });
  });

  test('presence:leave; a second leave, and a leave before any join, do nothing', async () => {
    const socket = await sockets.connect();
    const leave = () => socket.emitWithAck('presence:leave');
    expect(await leave()).toEqual({ ok: true });
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    const received = recordEvents(socket);
    expect(await leave()).toEqual({ ok: true });
    expect(await leave()).toEqual({ ok: true });
    expect(await redis.dbsize()).toBe(0);
    expect(await socket.emitWithAck('presence:heartbeat', {})).toEqual({
      ok: false,
      error: 'Socket has not joined a presence room',
      code: 'CONNECTION_NOT_FOUND',
    });
    // It has also left the room of the server, and may join another one.
    await socket.emitWithAck('presence:join', { roomId: 'other', userId: 'u' });
    await handle.service.join({ roomId: 'r', userId: 'v', connId: 'd' });
    await handle.service.join({ roomId: 'other', userId: 'v', connId: 'e' });
    await eventually(() => expect(received.map(({ connId }) => connId)).toContain('e'));
    expect(received.map(({ connId }) => connId)).not.toContain('d');
  });

  test('a socket can be in one room only', async () => {
    const socket = await sockets.connect();
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    const refused = await socket.emitWithAck('presence:join', { roomId: 'other', userId: 'u' });
    expect(refused).toMatchObject({
      ok: false,
      error: 'Socket already joined a different presence room',
    });
    expect(await redis.smembers('prs:active_rooms')).toEqual(['r']);
    // Of two joins sent at once, one succeeds.
    const second = await sockets.connect();
    const both = await Promise.all(
      ['x', 'y'].map((roomId) => second.emitWithAck('presence:join', { roomId, userId: 'u' })),
    );
    expect(both.map(({ ok }) => ok)).toEqual([true, false]);
  });

  test('a disconnection is a leave, with reason left', async () => {
    const [socket, other] = [await sockets.connect(), await sockets.connect()];
    await other.emitWithAck('presence:join', { roomId: 'r', userId: 'v' });
    const received = recordEvents(other);
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    const { id } = socket;
    socket.close();
    await eventually(() => {
      expect(received.filter(({ type }) => type === 'leave')).toMatchObject([
        { connId: id, userId: 'u', roomId: 'r', state: null, reason: 'left' },
      ]);
    });
  });

  test('a socket that disconnects while its join is in flight leaves no keys', async () => {
    const other = await sockets.connect();
    await other.emitWithAck('presence:join', { roomId: 'r', userId: 'v' });
    const received = recordEvents(other);
    // The join is in flight when the connection ends.
    const { service } = handle;
    const join = service.join.bind(service);
    service.join = (options) => {
      const joining = join(options);
      sockets.io.sockets.sockets.get(options.connId)?.disconnect(true);
      return joining;
    };
    const hasty = await sockets.connect();
    const { id } = hasty;
    hasty.emit('presence:join', { roomId: 'r', userId: 'w' });
    await eventually(() => {
      const seen = received.filter(({ connId }) => connId === id).map(({ type }) => type);
      expect(seen).toEqual(['join', 'leave']);
    });
    expect(await redis.smembers('prs:{room:r}:members')).toEqual(['v']);
  });

  test('heartbeats sent directly after the join belong to it', async () => {
    const socket = await sockets.connect();
    const [joined, heartbeat] = await Promise.all([
      socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u', state: { a: 1 } }),
      socket.emitWithAck('presence:heartbeat', { patchState: { a: 2 } }),
    ]);
    expect(heartbeat).toEqual({ ok: true, changed: true, epoch: joined.self.epoch });
  });

  test('events without an acknowledgement work, too', async () => {
    const socket = await sockets.connect();
    socket.emit('presence:join', { roomId: 'r', userId: 'u' });
    await eventually(async () => expect(await redis.exists(`prs:conn:${socket.id}`)).toBe(1));
    socket.emit('presence:heartbeat', { patchState: { a: 1 } });
    await eventually(async () => {
      expect(await redis.hget(`prs:conn:${socket.id}`, 'state')).toBe('{"a":1}');
    });
    socket.emit('presence:heartbeat');
    socket.emit('presence:join', 5);
    socket.emit('presence:leave');
    await eventually(async () => expect(await redis.dbsize()).toBe(0));
  });

  const refusals: [string, unknown[], RegExp][] = [
    ['presence:join', [], /^the payload of presence:join must be an object, got undefined$/],
    ['presence:join', ['r'], /^the payload of presence:join must be an object, got a string/],
    ['presence:join', [[]], /must be an object, got an array/],
    ['presence:join', [null], /must be an object, got null/],
    ['presence:join', [{ userId: 'u' }], /^roomId must be a string, got undefined/],
    ['presence:join', [{ roomId: '', userId: 'u' }], /^roomId must not be empty/],
    ['presence:join', [{ roomId: 'r', userId: 7 }], /^userId must be a string, got 7/],
    ['presence:join', [{ roomId: 'r', userId: {} }], /^userId must be a string, got an object/],
    [
      'presence:join',
      [{ roomId: 'r', userId: 'u', state: 'x' }],
      /^state must be a JSON object, got a string/,
    ],
    [
      'presence:join',
      [{ roomId: 'r', userId: 'u', state: null }],
      /^state must be a JSON object, got null/,
    ],
    ['presence:join', [{ roomId: 'x'.repeat(5000), userId: 'u' }], /^roomId .*5000.*4096/],
    ['presence:heartbeat', ['x'], /^the payload of presence:heartbeat must be an object/],
    ['presence:heartbeat', [{ epoch: -1 }], /^epoch must be a whole number/],
    ['presence:heartbeat', [{ epoch: 'x' }], /^epoch must be a whole number .*, got NaN/],
    ['presence:heartbeat', [{ epoch: 1.5 }], /^epoch must be a whole number .*, got 1.5/],
    ['presence:heartbeat', [{ patchState: [] }], /^patchState must be a JSON object, got an array/],
  ];
  test.each(refusals)(
    '%s of %j is refused, and the message names the field',
    async (event, args, message) => {
      const socket = await sockets.connect();
      const ack = await socket.emitWithAck(event, ...args);
      expect(ack).toEqual({
        ok: false,
        error: expect.stringMatching(message),
        code: 'INVALID_ARGUMENT',
      });
      expect(await redis.dbsize()).toBe(0);
    },
  );

  test('keys such as __proto__ are passed on and have no side effects', async () => {
    const socket = await sockets.connect();
    const state = JSON.parse('{"__proto__":{"polluted":true}}');
    const payload = { roomId: '__proto__', userId: 'constructor', state };
    const { snapshot } = await socket.emitWithAck('presence:join', payload);
    expect(JSON.stringify(snapshot[0].state)).toBe('{"__proto__":{"polluted":true}}');
    expect(({} as Untyped).polluted).toBeUndefined();
    expect(
      await socket.emitWithAck('presence:heartbeat', JSON.parse('{"__proto__":{"epoch":"x"}}')),
    ).toMatchObject({ ok: true });
  });
});

describe('10: failures on the server', () => {
  test('are logged, and the client gets a message without internal details', async () => {
    await using server = await startRedis();
    sockets = await socketServer();
    const logger = keepLog();
    const started = start({
      redis: server.url,
      logger,
      client: { limits: { commandTimeoutMs: 300 } },
    });
    await started.ready;
    const socket = await sockets.connect();
    await server.stop();
    const ack = await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    expect(ack).toEqual({
      ok: false,
      error: 'Presence is not available; try again',
      code: 'UNAVAILABLE',
    });
    expect(logger.lines.join('\n')).toMatch(
      /error presence:join failed .*(cannot be reached|broke before the answer)/,
    );
    await server.start();
    await eventually(async () => {
      const joined = await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
      expect(joined.ok).toBe(true);
    });
  });
});

describe('10: createSocketBridge', () => {
  test('emits with adapter.to(room).emit, under the given event names', async () => {
    const service = serviceOn(await ioredis());
    const emitted: unknown[] = [];
    const adapter = {
      to: (room: string) => ({
        emit: (event: string, payload: unknown) => emitted.push([room, event, payload]),
      }),
    };
    const bridge = await service.createSocketBridge(adapter);
    const named = await service.createSocketBridge(adapter, { eventName: 'who' });
    const c = { roomId: 'r', userId: 'u', connId: 'c' };
    await service.join(c);
    await eventually(() => expect(emitted).toHaveLength(2));
    const event = { type: 'join', ...c, state: {}, ts: expect.any(Number) };
    expect(emitted).toEqual([
      ['r', 'presence:event', { ...event, epoch: expect.any(Number) }],
      ['r', 'who', { ...event, epoch: expect.any(Number) }],
    ]);
    await bridge.stop();
    await service.leave('c');
    await eventually(() => expect(emitted).toHaveLength(3));
    await named.stop();
    await named.stop();
    await service.join(c);
    await service.fetchRoomSnapshot('r');
    expect(emitted).toHaveLength(3);
  });

  test('emits to the local sockets of a Socket.IO server, and of a namespace', async () => {
    const service = serviceOn(await ioredis());
    sockets = await socketServer();
    const broadcasts: unknown[] = [];
    const adapter: Untyped = sockets.io.of('/').adapter;
    const broadcast = adapter.broadcast.bind(adapter);
    adapter.broadcast = (packet: unknown, options: Untyped) => {
      broadcasts.push(options.flags);
      broadcast(packet, options);
    };
    const socket = await sockets.connect();
    sockets.io.socketsJoin('r');
    const received = recordEvents(socket);
    await service.createSocketBridge(sockets.io);
    await service.createSocketBridge(sockets.io.of('/'));
    await service.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await eventually(() => expect(received).toHaveLength(2));
    expect(broadcasts).toEqual([
      expect.objectContaining({ local: true }),
      expect.objectContaining({ local: true }),
    ]);
  });
});

describe('10: registerPresenceHandlers and initPresence', () => {
  const c = { roomId: 'r', userId: 'u', connId: 'c' };

  beforeEach(async () => {
    redis = await ioredis();
    sockets = await socketServer();
  });

  test('registerPresenceHandlers alone answers requests, and its result removes the handlers', async () => {
    const service = serviceOn(redis);
    const end = registerPresenceHandlers({ io: sockets.io, redis, logger: {} }, service);
    const socket = await sockets.connect();
    expect(await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' })).toMatchObject({
      ok: true,
    });
    end();
    for (const one of [socket, await sockets.connect()]) {
      await expect(one.timeout(50).emitWithAck('presence:leave')).rejects.toThrow('timed out');
    }
    expect(sockets.io.listenerCount('connection')).toBe(0);
  });

  test('defaults: ttlMs 30 s, reaperIntervalMs 3 s, a bridge to local sockets', async () => {
    const { service, ready } = start();
    await ready;
    const socket = await sockets.connect();
    const received = recordEvents(socket);
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    expect(await redis.pttl(`prs:conn:${socket.id}`)).toBeGreaterThan(28_000);
    await eventually(() => expect(received).toHaveLength(1));
    expect(service).toBeInstanceOf(PresenceService);
  });

  test('a socket that dies without a disconnect is reaped, with reason timeout', async () => {
    const { ready, service } = start({ ttlMs: 300, reaperIntervalMs: 50 });
    await ready;
    const socket = await sockets.connect();
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    const received = recordEvents(socket);
    await service.join(c);
    const heartbeat = setInterval(() => socket.emit('presence:heartbeat', {}), 60);
    await eventually(() => {
      expect(received.find(({ type }) => type === 'leave')).toMatchObject({
        ...c,
        reason: 'timeout',
      });
    });
    clearInterval(heartbeat);
  });

  test('bridge: other names, another adapter, none', async () => {
    const named = start({ bridge: { eventName: 'who' } });
    await named.ready;
    const socket = await sockets.connect();
    const who: unknown[] = [];
    const received = recordEvents(socket);
    socket.on('who', (event) => who.push(event));
    await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
    await eventually(() => expect(who).toHaveLength(1));
    expect(received).toEqual([]);
    await named.dispose();

    const emitted: string[] = [];
    const to = (room: string) => ({ emit: (event: string) => emitted.push(`${room} ${event}`) });
    const adapted = start({ bridge: { adapter: { to } } });
    await adapted.ready;
    await adapted.service.join(c);
    await eventually(() => expect(emitted).toEqual(['r presence:event']));
    await adapted.dispose();

    const without = start({ bridge: false });
    await without.ready;
    await without.service.join(c);
    const metrics = (await without.service.client()).metrics();
    expect(metrics.events).toBe(0);
  });

  test('optimizations are accepted and mapped, and the getters have their methods', async () => {
    const started = start({
      optimizations: {
        enableHeartbeatBatching: true,
        // Long enough to be observed on a busy machine.
        heartbeatBatchWindowMs: 500,
        heartbeatMaxBatchSize: 2,
        enableLuaHeartbeat: true,
        enableLuaJoin: true,
        enableTransactionalMetadata: true,
        metadataMaxRetries: 5,
      },
    });
    const lua = started.getLuaHeartbeatExecutor();
    await lua.warmup();
    const [entry] = await started.service.join(c);
    expect(await lua.getEpoch('c')).toBe(entry?.epoch);
    expect(await lua.getEpoch('nobody')).toBeUndefined();
    expect(await lua.heartbeat({ connId: 'c', patchState: { a: 1 } })).toBe(true);
    expect(await lua.heartbeat({ connId: 'nobody' })).toBe(false);

    const batcher = started.getHeartbeatBatcher();
    const heartbeats = Array.from({ length: 5 }, (_, i) =>
      batcher.heartbeat({ connId: i === 4 ? 'nobody' : 'c' }),
    );
    // The heartbeats are sent to the core at the end of the turn, and wait for the window.
    await eventually(() => expect(batcher.getBufferSize()).toBeGreaterThan(0), { intervalMs: 1 });
    expect(await Promise.all(heartbeats)).toEqual([false, false, false, false, false]);
    expect(batcher.getBufferSize()).toBe(0);
    const { heartbeatBatchSize } = (await started.service.client()).metrics();
    expect(heartbeatBatchSize.max).toBe(2);
    // This ends the batcher, as in the legacy implementation, and not the service.
    await batcher.dispose();
    await expect(batcher.heartbeat({ connId: 'c' })).rejects.toThrow('has been disposed');
    expect(await started.service.heartbeat({ connId: 'c' })).toBe(false);
  });

  test('without optimizations the getters exist, too, before the service has connected', async () => {
    const started = start();
    expect(started.getHeartbeatBatcher().getBufferSize()).toBe(0);
    expect(await started.getLuaHeartbeatExecutor().getEpoch('c')).toBeUndefined();
  });

  test('the result can be awaited, or used at once', async () => {
    const started = start();
    const handle = await started;
    expect(handle).not.toHaveProperty('then');
    expect(handle.service).toBe(started.service);
    await new Promise((resolve) => start().then(resolve));
    const early = start();
    await early.dispose();
    await expect(early).rejects.toThrow(/disposed/);
  });

  test('dispose removes handlers, bridge and reaper, and can be called again', async () => {
    const started = start();
    await started.ready;
    const socket = await sockets.connect();
    await Promise.all([started.dispose(), started.dispose()]);
    expect(await socket.timeout(5000).emitWithAck('presence:leave')).toEqual({
      ok: false,
      error: 'Presence is closed on this server; connect again',
      code: 'CLOSED',
    });
    expect(sockets.io.listenerCount('connection')).toBe(0);
    const early = start();
    await early.dispose();
    await expect(early.ready).rejects.toThrow(/disposed/);
  });

  test('while Redis is down it retries; `ready` rejects with errors that a retry cannot fix', async () => {
    await using server = await startRedis({ requirepass: 'secret' });
    const logger = keepLog();
    await server.stop();
    const limits = { connectTimeoutMs: 200 };
    const waiting = start({ redis: server.url, logger, client: { limits } });
    await eventually(() => expect(logger.lines.join()).toContain('presence bridge failed'));
    await server.start();
    await waiting.ready;
    const refused = start({ redis: server.urlFor({ password: 'wrong' }) });
    await expect(refused.ready).rejects.toMatchObject({ code: 'PERMISSION' });
  });

  test.each([
    ['no options', undefined, /^initPresence takes an object/],
    ['no io', { redis: 'redis://h' }, /^io must be a Socket.IO server/],
    ['no redis', { io: {} }, /^redis must be/],
    ['ttlMs', { redis: 'redis://h', io: {}, ttlMs: -1 }, /^ttlMs must be/],
    [
      'a flag',
      { redis: 'redis://h', io: {}, optimizations: { enableLuaJoin: 1 } },
      /^optimizations\.enableLuaJoin must be true or false/,
    ],
    [
      'a window',
      { redis: 'redis://h', io: {}, optimizations: { heartbeatBatchWindowMs: 'x' } },
      /^optimizations\.heartbeatBatchWindowMs must be/,
    ],
    [
      'a size',
      { redis: 'redis://h', io: {}, optimizations: { heartbeatMaxBatchSize: 0 } },
      /^optimizations\.heartbeatMaxBatchSize must be/,
    ],
    [
      'retries',
      { redis: 'redis://h', io: {}, optimizations: { metadataMaxRetries: -1 } },
      /^optimizations\.metadataMaxRetries must be/,
    ],
  ])('%s: refused at once', (_name, options, message) => {
    expect(() => initPresence(options as Untyped)).toThrow(message);
  });

  test('the options of the service are those of the spec', () => {
    expect(() => new PresenceService(redis, OPTIONS)).not.toThrow();
  });
});
