// Socket sessions: the effect of one socket on others and on itself, calls of unknown outcome, and
// servers that wrap the service. Real Socket.IO clients, real Redis.
import { createAdapter } from '@socket.io/redis-adapter';
import type { Redis } from 'ioredis';
import { PresenceService, registerPresenceHandlers } from 'rollcall';
import type { Socket as ServerSocket } from 'socket.io';
import type { Socket } from 'socket.io-client';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { deferred, eventually, within } from '../support/wait.js';
import {
  heartbeat,
  ioredis,
  join,
  OPTIONS,
  type SocketServer,
  serviceOn,
  socketServer,
  startPresence,
} from './services.js';

let redis: Redis;
let sockets: SocketServer;

const start = (options: Untyped = {}) => startPresence(sockets.io, redis, options);
const leave = (socket: Socket) => socket.emitWithAck('presence:leave');

/** The server's side of a socket. */
const peer = ({ id }: Socket) => sockets.io.sockets.sockets.get(id ?? '') as ServerSocket;

/** Whether a message to a room of the application reaches the socket. */
async function isReached(socket: Socket, room: string): Promise<boolean> {
  let reached = false;
  socket.on('private', () => {
    reached = true;
  });
  sockets.io.to(room).emit('private');
  // Packets of one socket keep their order.
  const { promise, resolve } = deferred();
  socket.once('sentinel', resolve);
  peer(socket).emit('sentinel');
  await promise;
  socket.off('private');
  return reached;
}

const isListed = async (id: string) => (await redis.exists(`prs:conn:${id}`)) === 1;

beforeEach(async () => {
  redis = await ioredis();
  sockets = await socketServer();
});

describe('17.5: joins and leaves of a socket', () => {
  test('are dropped when the socket disconnects, for any number of waiting requests', async () => {
    const off = Number.POSITIVE_INFINITY;
    const quotas = { joinsPerSecond: off, bytesPerSecond: off, queuedPerSocket: off };
    const handle = start({ quotas });
    await handle.ready;
    const socket = await sockets.connect();
    const { id = '' } = socket;
    for (let i = 0; i < 50_000; i++) {
      socket.emit('presence:join', { roomId: 'r', userId: 'u', state: { i } });
    }
    const server = peer(socket);
    const gone = new Promise((resolve) => server.once('disconnect', resolve));
    await eventually(() => isListed(id));
    socket.close();
    await within(gone, 20_000, 'the disconnection');
    await eventually(async () => !(await isListed(id)), { timeoutMs: 3000 });
    const client = await handle.service.client();
    await eventually(() => client.metrics().pendingCalls === 0);
    const { joins } = client.metrics();
    await handle.service.fetchRoomSnapshot('r');
    expect(client.metrics().joins).toBe(joins);
    expect(await redis.smembers('prs:{room:r}:members')).toEqual([]);
  });

  test('requests sent at once run in order: no request overtakes a join or a leave', async () => {
    await start().ready;
    const socket = await sockets.connect();
    const acks = await Promise.all([
      join(socket, 'r'),
      heartbeat(socket, { patchState: { a: 1 } }),
      leave(socket),
      heartbeat(socket),
      join(socket, 's'),
      heartbeat(socket, { patchState: { a: 2 } }),
    ]);
    expect(acks).toMatchObject([
      { ok: true },
      { ok: true, changed: true },
      { ok: true },
      { ok: false, code: 'CONNECTION_NOT_FOUND' },
      { ok: true },
      { ok: true, changed: true },
    ]);
  });

  test('above queuedPerSocket: RATE_LIMITED, and the message names the limit', async () => {
    await start({ quotas: { queuedPerSocket: 3 } }).ready;
    const socket = await sockets.connect();
    const acks = await Promise.all([1, 2, 3, 4, 5].map(() => join(socket, 'r')));
    expect(acks.map(({ ok }) => ok)).toEqual([true, true, true, false, false]);
    expect(acks[4]).toEqual({
      ok: false,
      code: 'RATE_LIMITED',
      error: expect.stringMatching(/^quotas\.queuedPerSocket is 3: .* wait for answers/),
    });
    expect(await join(socket, 'r')).toMatchObject({ ok: true });
  });
});

describe('17.5: rooms of the application', () => {
  test('the id of another socket is refused as a room, and its messages are not received', async () => {
    await start().ready;
    const [victim, other] = [await sockets.connect(), await sockets.connect()];
    expect(await join(other, victim.id ?? '')).toMatchObject({ ok: false, code: 'FORBIDDEN' });
    expect(await isReached(other, victim.id ?? '')).toBe(false);
    expect(await isReached(victim, victim.id ?? '')).toBe(true);
  });

  test('the id of a socket of another server is refused, too', async () => {
    const adapter = () => {
      const clients = [redis.duplicate(), redis.duplicate()] as const;
      onTestFinished(() => {
        for (const client of clients) client.disconnect();
      });
      return createAdapter(...clients);
    };
    const far = await socketServer({ adapter: adapter() });
    sockets = await socketServer({ adapter: adapter() });
    await start().ready;
    const [victim, other] = [await far.connect(), await sockets.connect()];
    await eventually(async () => expect(await sockets.io.fetchSockets()).toHaveLength(2));
    expect(await join(other, victim.id ?? '')).toMatchObject({ ok: false, code: 'FORBIDDEN' });
    expect(peer(other).rooms.has(victim.id ?? '')).toBe(false);
    // A room name of the same length as an id is accepted.
    expect(await join(other, 'x'.repeat(20))).toMatchObject({ ok: true });
  });

  test('with its own id as the room, the socket keeps its private room', async () => {
    await start().ready;
    const socket = await sockets.connect();
    const { id = '' } = socket;
    expect(await join(socket, id)).toMatchObject({ ok: true });
    expect(await leave(socket)).toEqual({ ok: true });
    expect(await isReached(socket, id)).toBe(true);
  });

  test.each([
    ['a refused join', { state: deep(200) }, false],
    ['a join and a leave', {}, true],
  ])(
    'after %s, a socket is still in the room that the application added it to',
    async (_, payload, ok) => {
      await start().ready;
      sockets.io.on('connection', (socket) => socket.join('app'));
      const socket = await sockets.connect();
      expect(await join(socket, 'app', payload)).toMatchObject({ ok });
      await leave(socket);
      expect(await isReached(socket, 'app')).toBe(true);
      // The socket leaves a room that Rollcall has added it to.
      expect(await join(socket, 'own', payload)).toMatchObject({ ok });
      await leave(socket);
      expect(peer(socket).rooms.has('own')).toBe(false);
    },
  );
});

function deep(levels: number): object {
  return levels === 0 ? {} : { in: deep(levels - 1) };
}

describe('3.12: unknown outcomes', () => {
  let server: RedisServer;
  const client = { limits: { commandTimeoutMs: 300 } };

  beforeEach(async () => {
    server = await startRedis();
    onTestFinished(() => server[Symbol.asyncDispose]());
    redis = await server.client();
  });

  /** A socket whose join was applied, but not answered. */
  async function timedOut(): Promise<Socket> {
    await start({ redis: server.url, client }).ready;
    const socket = await sockets.connect();
    server.pause();
    expect(await join(socket, 'r')).toMatchObject({ ok: false, code: 'TIMEOUT' });
    server.resume();
    await eventually(() => isListed(socket.id ?? ''));
    return socket;
  }

  test('a disconnection removes a join that timed out but was applied', async () => {
    const socket = await timedOut();
    const { id = '' } = socket;
    socket.close();
    await eventually(async () => !(await isListed(id)));
  });

  test('… and so does presence:leave; the socket may then join another room', async () => {
    const socket = await timedOut();
    expect(await leave(socket)).toEqual({ ok: true });
    expect(await isListed(socket.id ?? '')).toBe(false);
    const again = await timedOut();
    expect(await join(again, 'other')).toMatchObject({ ok: true });
    expect(await redis.smembers('prs:active_rooms')).toEqual(['other']);
  });

  test('… and an accepted heartbeat confirms the join', async () => {
    const socket = await timedOut();
    expect(peer(socket).rooms.has('r')).toBe(false);
    expect(await heartbeat(socket)).toMatchObject({ ok: true });
    expect(peer(socket).rooms.has('r')).toBe(true);
    expect(peer(socket).data).toEqual({ presenceRoomId: 'r', presenceUserId: 'u' });
    expect(await join(socket, 'other')).toMatchObject({ ok: false, code: 'INVALID_ARGUMENT' });
  });

  test('after a repeated join that timed out, the epoch of the first join does not fence the leave', async () => {
    await start({ redis: server.url, client }).ready;
    const socket = await sockets.connect();
    const { self } = await join(socket, 'r');
    server.pause();
    expect(await join(socket, 'r')).toMatchObject({ ok: false, code: 'TIMEOUT' });
    server.resume();
    const epoch = () => redis.hget(`prs:conn:${socket.id}`, 'epoch').then(Number);
    await eventually(async () => (await epoch()) > self.epoch);
    expect(await leave(socket)).toEqual({ ok: true });
    expect(await isListed(socket.id ?? '')).toBe(false);
  });

  test('a join with a failed snapshot', async () => {
    await using proxy = await startProxy(server.port);
    await start({ redis: proxy.url, client }).ready;
    const socket = await sockets.connect();
    const { id = '' } = socket;
    proxy.watch = async (piece) => {
      if (piece.includes(id)) {
        // The answer after the join does not arrive.
        proxy.watch = (next) => next;
        setTimeout(() => proxy.blackhole(true), 0);
      }
      return piece;
    };
    proxy.delayMs = 20;
    expect(await join(socket, 'r')).toMatchObject({ ok: false });
    expect(await isListed(id)).toBe(true);
    proxy.blackhole(false);
    proxy.cut();
    const channel = { channelType: 't', channelName: 'n' };
    await eventually(async () => (await socket.emitWithAck('metadata:getChannel', channel)).ok);
    socket.close();
    await eventually(async () => !(await isListed(id)));
  });

  test('a lost leave, and a join of another room', async () => {
    await start({ redis: server.url, client }).ready;
    const socket = await sockets.connect();
    await join(socket, 'r');
    server.pause();
    expect(await leave(socket)).toMatchObject({ ok: false, code: 'TIMEOUT' });
    server.resume();
    expect(await join(socket, 'other')).toMatchObject({ ok: true });
    expect(await redis.smembers('prs:active_rooms')).toEqual(['other']);
    expect([...peer(socket).rooms].sort()).toEqual([socket.id, 'other'].sort());
  });

  test('a failed leave, a heartbeat, and a join of another room', async () => {
    const handle = start({ redis: server.url });
    await handle.ready;
    const socket = await sockets.connect();
    await join(socket, 'r');
    const original = handle.service.leave;
    handle.service.leave = () => Promise.reject(new Error('lost'));
    expect(await leave(socket)).toMatchObject({ ok: false });
    handle.service.leave = original;
    expect(await heartbeat(socket)).toMatchObject({ ok: true });
    expect(await join(socket, 'other')).toMatchObject({ ok: true });
    expect(await redis.smembers('prs:active_rooms')).toEqual(['other']);
  });

  test('leave(connId, { epoch }) is fenced', async () => {
    const service = serviceOn(server.url);
    const c = { roomId: 'r', userId: 'u', connId: 'c' };
    const [first] = await service.join(c);
    const [second] = await service.join(c);
    expect(await service.leave('c', { epoch: first?.epoch ?? 0 })).toBeNull();
    expect(await isListed('c')).toBe(true);
    expect(await service.leave('c', { epoch: second?.epoch ?? 0 })).toEqual({
      roomId: 'r',
      userId: 'u',
    });
    // Other fields are ignored, as everywhere in this interface.
    expect(await service.leave('c', { why: 'x' } as Untyped)).toBeNull();
  });

  test('an expired connection may join another room', async () => {
    await start({ redis: server.url }).ready;
    const socket = await sockets.connect();
    await join(socket, 'r');
    await redis.del(`prs:conn:${socket.id}`);
    expect(await heartbeat(socket)).toMatchObject({ code: 'CONNECTION_NOT_FOUND' });
    expect(await join(socket, 'other')).toMatchObject({ ok: true });
  });
});

describe('10: a wrapped service', () => {
  /** Counts the calls from outside, and refuses some. */
  class Guard extends PresenceService {
    readonly calls: string[] = [];

    override async join(options: Untyped) {
      this.calls.push('join');
      if (options.userId === 'mallory') throw new Error('banned');
      return super.join({ ...options, userId: options.userId.toLowerCase() });
    }
    override heartbeat(options: Untyped) {
      this.calls.push('heartbeat');
      return super.heartbeat(options);
    }
    override leave(connId: string, options?: Untyped) {
      this.calls.push('leave');
      return super.leave(connId, options);
    }
    override getChannelMetadata(params: Untyped) {
      this.calls.push('getChannelMetadata');
      return super.getChannelMetadata(params);
    }
  }

  function handle<Service extends PresenceService>(service: Service): Service {
    onTestFinished(() => service.stop());
    onTestFinished(registerPresenceHandlers({ io: sockets.io, logger: {} }, service));
    return service;
  }

  test('a subclass is called once for each request, and can change or refuse it', async () => {
    const service = handle(new Guard(redis, { ...OPTIONS, logger: {} }));
    const socket = await sockets.connect();
    expect(await join(socket, 'r', { userId: 'mallory' })).toMatchObject({ ok: false });
    expect(service.calls).toEqual(['join']);
    const { snapshot, self } = await join(socket, 'r', { userId: 'ADA' });
    expect(snapshot).toMatchObject([{ userId: 'ada', epoch: self.epoch }]);
    expect(peer(socket).data.presenceUserId).toBe('ada');
    expect(await heartbeat(socket)).toEqual({ ok: true, changed: false, epoch: self.epoch });
    const changed = await heartbeat(socket, { patchState: { a: 1 } });
    expect(changed).toEqual({ ok: true, changed: true, epoch: self.epoch });
    expect(await heartbeat(socket, { epoch: self.epoch - 1 })).toMatchObject({
      code: 'STALE_EPOCH',
    });
    const channel = { channelType: 't', channelName: 'n' };
    await socket.emitWithAck('metadata:getChannel', channel);
    expect(await leave(socket)).toEqual({ ok: true });
    expect(service.calls).toEqual([
      ...['join', 'join', 'heartbeat', 'heartbeat', 'heartbeat'],
      ...['getChannelMetadata', 'leave'],
    ]);
    expect((await service.client()).metrics()).toMatchObject({
      joins: 1,
      heartbeats: 2,
      heartbeatsFailed: 1,
      leaves: 1,
    });
  });

  test('an instance with replaced methods, even if replaced after the handlers were registered', async () => {
    const service = handle(serviceOn(redis));
    const socket = await sockets.connect();
    const spans: string[] = [];
    for (const name of ['join', 'heartbeat', 'leave'] as const) {
      const original = (service[name] as Untyped).bind(service);
      (service as Untyped)[name] = async (...args: unknown[]) => {
        spans.push(`${name} begins`);
        try {
          return await original(...args);
        } finally {
          spans.push(`${name} ends`);
        }
      };
    }
    await join(socket, 'r');
    await heartbeat(socket);
    await leave(socket);
    expect(spans).toEqual(
      ['join', 'heartbeat', 'leave'].flatMap((name) => [`${name} begins`, `${name} ends`]),
    );
  });

  test('a wrapper that copies the options: acknowledgements are the same', async () => {
    const service = handle(serviceOn(redis));
    const { heartbeat: original } = service;
    (service as Untyped).heartbeat = ({ connId, epoch, patchState }: Untyped) =>
      original.call(service, {
        connId,
        ...(epoch === undefined ? {} : { epoch }),
        ...(patchState === undefined ? {} : { patchState }),
      });
    const socket = await sockets.connect();
    const { self } = await join(socket, 'r');
    const { epoch } = self;
    expect(await heartbeat(socket)).toEqual({ ok: true, changed: false, epoch });
    expect(await heartbeat(socket, { patchState: { a: 1 } })).toEqual({
      ok: true,
      changed: true,
      epoch,
    });
    expect(await heartbeat(socket, { epoch: epoch - 1 })).toMatchObject({ code: 'STALE_EPOCH' });
    await redis.del(`prs:conn:${socket.id}`);
    expect(await heartbeat(socket)).toMatchObject({ ok: false, code: 'CONNECTION_NOT_FOUND' });
  });

  test('a separate object around a service', async () => {
    const inner = serviceOn(redis);
    const service: Untyped = {
      join: (options: Untyped) => inner.join(options),
      heartbeat: (options: Untyped) => inner.heartbeat(options),
      leave: (connId: string) => inner.leave(connId),
      client: () => inner.client(),
    };
    onTestFinished(registerPresenceHandlers({ io: sockets.io, logger: {} }, service));
    const socket = await sockets.connect();
    const { id = '' } = socket;
    const { self } = await join(socket, 'r');
    expect(await heartbeat(socket)).toEqual({ ok: true, changed: false, epoch: self.epoch });
    socket.close();
    await eventually(async () => !(await isListed(id)));
  });

  test('16: listeners return a Promise that resolves when the work is done, and never rejects', async () => {
    const measured: string[] = [];
    sockets.io.use((socket, next) => {
      const on: Untyped = socket.on.bind(socket);
      (socket as Untyped).on = (event: string, listener: Untyped) =>
        on(event, (...args: unknown[]) => {
          const result = listener(...args);
          expect(result).toBeInstanceOf(Promise);
          result.then(
            () => measured.push(`${event} done`),
            () => measured.push(`${event} rejected`),
          );
        });
      next();
    });
    const service = handle(serviceOn(redis));
    const original = service.join.bind(service);
    service.join = async (options) => {
      const snapshot = await original(options);
      measured.push('joined');
      return snapshot;
    };
    const socket = await sockets.connect();
    await join(socket, 'r');
    await socket.emitWithAck('presence:join', 5);
    socket.emit('presence:heartbeat', 5);
    await leave(socket);
    socket.close();
    await eventually(() => expect(measured).toContain('disconnect done'));
    expect(measured.slice(0, 2)).toEqual(['joined', 'presence:join done']);
    expect(measured.filter((line) => line.endsWith('rejected'))).toEqual([]);
  });
});

describe('10: connections that the server joins by itself', () => {
  test.each(['before the handlers', 'after the handlers'])('%s', async (when) => {
    const service = serviceOn(redis);
    await service.client();
    const joinsItself = () =>
      sockets.io.on('connection', (socket) => {
        service.join({ roomId: 'r', userId: 'server', connId: socket.id }).catch(() => {});
      });
    if (when === 'before the handlers') joinsItself();
    onTestFinished(registerPresenceHandlers({ io: sockets.io, logger: {} }, service));
    if (when === 'after the handlers') joinsItself();
    const [one, two] = [await sockets.connect(), await sockets.connect()];
    await eventually(async () => expect(await service.fetchRoomSnapshot('r')).toHaveLength(2));
    expect(await heartbeat(one, { patchState: { a: 1 } })).toMatchObject({
      ok: true,
      changed: true,
    });
    expect(peer(one).data).toEqual({ presenceRoomId: 'r', presenceUserId: 'server' });
    expect(await leave(one)).toEqual({ ok: true });
    expect(await isListed(one.id ?? '')).toBe(false);
    const { id = '' } = two;
    two.close();
    await eventually(async () => !(await isListed(id)));
    // Requests wait while the server's own join is in flight.
    const joining = service.join({ roomId: 'r', userId: 'server', connId: one.id ?? '' });
    const acks = [heartbeat(one), leave(one)];
    await joining;
    expect(await Promise.all(acks)).toMatchObject([{ ok: true }, { ok: true }]);
    expect(await isListed(one.id ?? '')).toBe(false);
    // After the server removes a connection, the socket may join another room.
    await join(one, 'x');
    await service.leave(one.id ?? '');
    expect(await join(one, 'y')).toMatchObject({ ok: true });
  });
});
