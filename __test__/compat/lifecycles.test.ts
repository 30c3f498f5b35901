// Sockets when connections break and servers end: connection state recovery, shutdown in both
// orders, and gaps in the events. Real Socket.IO clients, real Redis.
import type { Redis } from 'ioredis';
import { type PresenceEvent, PresenceService, registerPresenceHandlers } from 'rollcall';
import { SessionAwareAdapter } from 'socket.io-adapter';
import type { Socket } from 'socket.io-client';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import type { Untyped } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { sharedRedis, startRedis } from '../support/redis.js';
import { deferred, eventually } from '../support/wait.js';
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

const isListed = async (id: string) => (await redis.exists(`prs:conn:${id}`)) === 1;

beforeEach(async () => {
  redis = await ioredis();
});

/** Breaks the connection; resolves when the client has recovered the same socket. */
async function breakAndRecover(socket: Socket): Promise<void> {
  const { id } = socket;
  const back = new Promise((resolve) => socket.once('connect', () => resolve(undefined)));
  socket.io.engine?.close();
  await back;
  expect(socket.recovered).toBe(true);
  expect(socket.id).toBe(id);
}

/** Connects and waits for a packet, which recovery needs. */
async function connectRecoverable(server: SocketServer): Promise<Socket> {
  const socket = await server.connect();
  socket.io.reconnectionDelay(1);
  const seen = new Promise((resolve) => socket.once('welcome', () => resolve(undefined)));
  server.io.emit('welcome');
  await seen;
  return socket;
}

describe('17.6: a recovered socket', () => {
  beforeEach(async () => {
    sockets = await socketServer({ connectionStateRecovery: {} });
  });

  test('is present again, with its state, without a join', async () => {
    const { ready, service } = start();
    await ready;
    const [socket, other] = [await connectRecoverable(sockets), await sockets.connect()];
    const { self } = await join(socket, 'r', { state: { mic: true } });
    await join(other, 'r', { userId: 'v' });
    await heartbeat(socket, { patchState: { cursor: 1 } });
    const received: PresenceEvent[] = [];
    for (let times = 1; times <= 2; times++) {
      await breakAndRecover(socket);
      // The epoch that the client knows is still valid.
      const again = await heartbeat(socket, { epoch: self.epoch });
      expect(again).toEqual({ ok: true, changed: false, epoch: expect.any(Number) });
      expect(again.epoch).toBeGreaterThan(self.epoch);
      expect(await heartbeat(socket, { epoch: self.epoch - 1 })).toMatchObject({
        code: 'STALE_EPOCH',
      });
      const entries = await service.fetchRoomSnapshot('r');
      expect(entries.find(({ connId }) => connId === socket.id)).toMatchObject({
        userId: 'u',
        state: { mic: true, cursor: 1 },
      });
      const peer = sockets.io.sockets.sockets.get(socket.id ?? '');
      expect(peer?.data).toEqual({ presenceRoomId: 'r', presenceUserId: 'u' });
    }
    socket.on('presence:event', (event) => received.push(event));
    await heartbeat(other, { patchState: { a: 1 } });
    await eventually(() => expect(received.map(({ type }) => type)).toContain('update'));
    // It leaves like any other socket, and its room is removed.
    expect(await socket.emitWithAck('presence:leave')).toEqual({ ok: true });
    expect(await isListed(socket.id ?? '')).toBe(false);
    expect(sockets.io.sockets.adapter.rooms.get('r')).toEqual(new Set([other.id]));
  });

  test('stays in the rooms that the application added it to', async () => {
    await start().ready;
    sockets.io.once('connection', (socket) => socket.join('r'));
    const socket = await connectRecoverable(sockets);
    await join(socket, 'r');
    await breakAndRecover(socket);
    expect(await heartbeat(socket)).toMatchObject({ ok: true });
    await socket.emitWithAck('presence:leave');
    expect(sockets.io.sockets.adapter.rooms.get('r')?.has(socket.id ?? '')).toBe(true);
  });

  test.each([
    ['and a second join', true],
    ['and no second join', false],
  ])('with a join in flight, a Redis latency of 150 ms, %s', async (_, joinsAgain) => {
    const { host, port } = await sharedRedis();
    await using proxy = await startProxy({ host, port });
    const { db } = redis.options;
    const { ready, service } = start({ redis: `${proxy.url}/${db}` });
    await ready;
    const socket = await connectRecoverable(sockets);
    const { id = '' } = socket;
    proxy.delayMs = 75;
    socket.emit('presence:join', { roomId: 'r', userId: 'u', state: { a: 1 } });
    // The request has arrived, and its call to Redis is in flight.
    await eventually(() => sockets.io.sockets.adapter.rooms.has('r'), { intervalMs: 1 });
    await breakAndRecover(socket);
    if (joinsAgain) {
      expect(await join(socket, 'r', { state: { a: 1 } })).toMatchObject({ ok: true });
    }
    expect(await heartbeat(socket)).toMatchObject({ ok: true });
    // The call from before the disconnection has been applied, and the socket is not removed.
    await eventually(async () => (await service.client()).metrics().pendingCalls === 0);
    expect(await heartbeat(socket)).toMatchObject({ ok: true });
    expect(await service.fetchRoomSnapshot('r')).toMatchObject([{ connId: id, state: { a: 1 } }]);
  });

  test('a socket that authorize now refuses does not join again', async () => {
    let allowed = true;
    const { ready, service } = start({ authorize: () => allowed });
    await ready;
    const socket = await connectRecoverable(sockets);
    await join(socket, 'r');
    allowed = false;
    await breakAndRecover(socket);
    await eventually(async () => expect(await service.fetchRoomSnapshot('r')).toEqual([]));
    await eventually(() => expect(sockets.io.sockets.adapter.rooms.has('r')).toBe(false));
    expect(sockets.io.sockets.sockets.get(socket.id ?? '')?.data).toEqual({});
  });

  test('sockets that joined a room with its id in the meantime do not receive its private messages', async () => {
    await start().ready;
    const [socket, other] = [await connectRecoverable(sockets), await sockets.connect()];
    const { id = '' } = socket;
    const received: string[] = [];
    other.on('private', (text) => received.push(text));
    socket.io.reconnectionDelay(200);
    const back = new Promise((resolve) => socket.once('connect', () => resolve(undefined)));
    socket.io.engine?.close();
    await eventually(() => !sockets.io.sockets.sockets.has(id));
    expect(await join(other, id)).toMatchObject({ ok: true });
    await back;
    expect(socket.recovered).toBe(true);
    await eventually(() => {
      expect(sockets.io.sockets.adapter.rooms.get(id)).toEqual(new Set([id]));
    });
    expect(await heartbeat(other)).toMatchObject({ ok: true });
    sockets.io.to(id).emit('private', 'x');
    expect(await join(other, id)).toMatchObject({ ok: false, code: 'FORBIDDEN' });
    expect(received).toEqual([]);
  });

  test('with a join in flight that times out but is applied', async () => {
    await using server = await startRedis();
    redis = await server.client();
    const { ready, service } = start({
      redis: server.url,
      client: { limits: { commandTimeoutMs: 300 } },
    });
    await ready;
    const socket = await connectRecoverable(sockets);
    server.pause();
    socket.emit('presence:join', { roomId: 'r', userId: 'u', state: { a: 1 } });
    await eventually(() => sockets.io.sockets.adapter.rooms.has('r'), { intervalMs: 1 });
    await breakAndRecover(socket);
    server.resume();
    await eventually(async () => expect(await heartbeat(socket)).toMatchObject({ ok: true }), {
      intervalMs: 50,
    });
    await eventually(async () => (await service.client()).metrics().pendingCalls === 0);
    expect(await service.fetchRoomSnapshot('r')).toMatchObject([
      { connId: socket.id, state: { a: 1 } },
    ]);
  });

  test('while Redis is down: present again with the first heartbeat afterwards', async () => {
    await using server = await startRedis();
    redis = await server.client();
    await start({ redis: server.url, client: { limits: { commandTimeoutMs: 100 } } }).ready;
    const socket = await connectRecoverable(sockets);
    await join(socket, 'r', { state: { a: 1 } });
    await server.kill();
    await breakAndRecover(socket);
    expect(await heartbeat(socket)).toMatchObject({ ok: false });
    await server.start();
    redis = await server.client();
    await eventually(async () => expect(await heartbeat(socket)).toMatchObject({ ok: true }), {
      intervalMs: 50,
    });
    expect(await isListed(socket.id ?? '')).toBe(true);
  });
});

/**
 * An adapter that shares the recovery data between all servers, as adapters for several servers do.
 */
function sharedAdapter() {
  const sessions = new Map();
  const packets: unknown[] = [];
  class SharedAdapter extends SessionAwareAdapter {
    constructor(nsp: Untyped) {
      super(nsp);
      Object.assign(this, { sessions, packets });
    }
    override persistSession(session: Untyped) {
      // A copy, as from an adapter that serializes.
      super.persistSession(structuredClone(session));
    }
  }
  return { options: { connectionStateRecovery: {}, adapter: SharedAdapter as Untyped } };
}

test('17.6: the first server does not remove a socket that was recovered on another server', async () => {
  const { options } = sharedAdapter();
  const [first, second] = [await socketServer(options), await socketServer(options)];
  const [one, two] = [serviceOn(redis), serviceOn(redis)];
  onTestFinished(registerPresenceHandlers({ io: first.io, logger: {} }, one));
  onTestFinished(registerPresenceHandlers({ io: second.io, logger: {} }, two));
  // The leave of the first server is delayed.
  let lateLeave: (() => Promise<unknown>) | undefined;
  const leave = one.leave.bind(one);
  one.leave = (...args) => {
    lateLeave = () => leave(...args);
    return new Promise(() => {});
  };
  const socket = await connectRecoverable(first);
  const { id = '' } = socket;
  const { self } = await join(socket, 'r', { state: { a: 1 } });
  (socket.io as Untyped).uri = second.url;
  await breakAndRecover(socket);
  const [peer] = [...second.io.sockets.sockets.values()];
  expect(peer?.recovered).toBe(true);
  expect(await heartbeat(socket, { epoch: self.epoch })).toMatchObject({ ok: true });
  expect(peer?.data).toEqual({ presenceRoomId: 'r', presenceUserId: 'u' });
  expect(await lateLeave?.()).toBeNull();
  expect(await two.fetchRoomSnapshot('r')).toMatchObject([{ connId: id, state: { a: 1 } }]);
  expect(await heartbeat(socket)).toMatchObject({ ok: true });
});

test('17.6: after a join that is applied later than that of the recovered socket, its heartbeat restores it', async () => {
  const { options } = sharedAdapter();
  const [first, second] = [await socketServer(options), await socketServer(options)];
  const [one, two] = [serviceOn(redis), serviceOn(redis)];
  onTestFinished(registerPresenceHandlers({ io: first.io, logger: {} }, one));
  onTestFinished(registerPresenceHandlers({ io: second.io, logger: {} }, two));
  const recovered = deferred();
  const late = deferred();
  const joinOne = one.join.bind(one);
  one.join = async (joining) => {
    await recovered.promise;
    const snapshot = await joinOne(joining);
    late.resolve();
    return snapshot;
  };
  const socket = await connectRecoverable(first);
  socket.emit('presence:join', { roomId: 'r', userId: 'u', state: { a: 1 } });
  await eventually(() => first.io.sockets.adapter.rooms.has('r'), { intervalMs: 1 });
  (socket.io as Untyped).uri = second.url;
  await breakAndRecover(socket);
  await eventually(async () => expect(await two.fetchRoomSnapshot('r')).toHaveLength(1));
  recovered.resolve();
  await late.promise;
  // The first server removes the connection that its own late join has added.
  await eventually(async () => expect(await two.fetchRoomSnapshot('r')).toEqual([]));
  expect(await heartbeat(socket)).toMatchObject({ ok: true });
  expect(await two.fetchRoomSnapshot('r')).toMatchObject([{ state: { a: 1 } }]);
});

describe('10: shutdown', () => {
  const SOCKETS = 120;

  beforeEach(async () => {
    sockets = await socketServer();
  });

  async function joined(): Promise<Socket[]> {
    const all = await Promise.all(Array.from({ length: SOCKETS }, () => sockets.connect()));
    await Promise.all(all.map((socket, i) => join(socket, `r${i % 7}`)));
    return all;
  }

  /** Subscribes on another node and records the leaves. */
  async function leaves(): Promise<string[]> {
    const left: string[] = [];
    await serviceOn(redis).subscribe((event) => {
      if (event.type === 'leave') left.push(`${event.connId} ${event.reason}`);
    });
    return left;
  }

  test.each([
    ['dispose, then close', true],
    ['close, then dispose', false],
  ])(`%s: all ${SOCKETS} sockets leave`, async (_, disposeFirst) => {
    const presence = start();
    await presence.ready;
    const all = await joined();
    const ids = all.map(({ id }) => `${id} left`);
    const left = await leaves();
    if (disposeFirst) {
      await presence.dispose();
      expect(await redis.smembers('prs:active_rooms')).toEqual([]);
      // Later requests are answered.
      expect(await join(all[0] as Socket, 'r')).toMatchObject({ ok: false, code: 'CLOSED' });
      expect(await heartbeat(all[1] as Socket)).toMatchObject({ ok: false, code: 'CLOSED' });
      await sockets.io.close();
    } else {
      sockets.io.close();
      await presence.dispose();
    }
    expect(await redis.smembers('prs:active_rooms')).toEqual([]);
    expect(await redis.keys('prs:conn:*')).toEqual([]);
    await eventually(() => expect([...left].sort()).toEqual(ids.sort()));
  });

  test('a service and its handlers: close, then stop', async () => {
    const service = new PresenceService(redis, { ...OPTIONS, logger: {} });
    registerPresenceHandlers({ io: sockets.io, logger: {} }, service);
    const all = await joined();
    const left = await leaves();
    sockets.io.close();
    await service.stop();
    await eventually(() => expect(left).toHaveLength(all.length));
    expect(await redis.smembers('prs:active_rooms')).toEqual([]);
  });
});

describe('10: a gap in the events', () => {
  test('presence:resync carries the current members of each room with sockets', async () => {
    sockets = await socketServer();
    const { ready, service } = start();
    await ready;
    sockets.io.on('connection', (socket) => socket.join('watched'));
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => sockets.connect()));
    const resyncs = [a, b, c].map((socket) => {
      const got: Untyped[] = [];
      socket?.on('presence:resync', (message) => got.push(message));
      return got;
    });
    await join(a as Socket, 'r', { state: { n: 1 } });
    await join(b as Socket, 's');
    await service.join({ roomId: 'watched', userId: 'w', connId: 'w' });
    // Rooms without sockets on this server are not sent.
    await service.join({ roomId: 'elsewhere', userId: 'x', connId: 'x' });
    await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(() => {
      expect(resyncs.map((all) => all.map(({ roomId }) => roomId).sort())).toEqual([
        ['r', 'watched'],
        ['s', 'watched'],
        ['watched'],
      ]);
    });
    expect(resyncs[0]?.find(({ roomId }) => roomId === 'r').snapshot).toEqual([
      {
        connId: a?.id,
        userId: 'u',
        roomId: 'r',
        state: { n: 1 },
        lastSeenMs: expect.any(Number),
        epoch: expect.any(Number),
      },
    ]);
    expect(resyncs[2]?.[0].snapshot).toMatchObject([{ connId: 'w' }]);
  });

  test('events that arrive while a room is read are emitted after its snapshot; the room is read again if there are many', async () => {
    const service = serviceOn(redis);
    const emitted: string[] = [];
    const rooms = new Map([['r', 1]]);
    const io = {
      adapter: { rooms },
      sockets: new Map(),
      to: () => ({ emit: (name: string) => emitted.push(name) }),
    };
    let read = () => {};
    const reads: unknown[] = [];
    const fetch = service.fetchRoomSnapshot.bind(service);
    service.fetchRoomSnapshot = async (roomId) => {
      reads.push(roomId);
      if (reads.length === 1) await new Promise<void>((resolve) => (read = resolve));
      return fetch(roomId);
    };
    await service.createSocketBridge(io as Untyped, { resyncEventName: 'again' });
    await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(() => expect(reads).toEqual(['r']));
    await service.join({ roomId: 'r', userId: 'u', connId: 'c' });
    await service.join({ roomId: 'other', userId: 'u', connId: 'd' });
    await eventually(() => expect(emitted).toEqual(['presence:event']));
    read();
    await eventually(() => {
      expect(emitted).toEqual(['presence:event', 'again', 'presence:event']);
    });
  });
});
