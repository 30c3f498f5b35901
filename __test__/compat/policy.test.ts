// Identity, permissions and quotas of sockets (spec 17.5): identify, authorize and quotas, for
// initPresence and registerPresenceHandlers. Real Socket.IO clients, real Redis.
import type { Redis } from 'ioredis';
import { initPresence, registerPresenceHandlers, type SocketRequest } from 'rollcall';
import type { Socket } from 'socket.io-client';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { keepLog, type Untyped } from '../support/clients.js';
import { eventually } from '../support/wait.js';
import {
  heartbeat,
  ioredis,
  type SocketServer,
  serviceOn,
  socketServer,
  startPresence,
} from './services.js';

let redis: Redis;
let sockets: SocketServer;

beforeEach(async () => {
  redis = await ioredis();
  sockets = await socketServer();
});

async function start(options: Untyped): Promise<void> {
  await startPresence(sockets.io, redis, options).ready;
}

const join = (socket: Socket, payload: Untyped = {}) =>
  socket.emitWithAck('presence:join', { roomId: 'r', userId: 'ada', ...payload });
const channel = { channelType: 't', channelName: 'n' };
const set = (socket: Socket, more: Untyped = {}) =>
  socket.emitWithAck('metadata:setChannel', {
    ...channel,
    data: [{ key: 'k', value: 'v' }],
    options: { addUserId: true },
    ...more,
  });

const FORBIDDEN = { ok: false, code: 'FORBIDDEN', error: expect.any(String) };

describe('17.5: identify', () => {
  test.each([
    ['a function', () => 'ada'],
    ['an asynchronous function', async () => 'ada'],
  ])('%s returns the user of a socket', async (_, identify) => {
    await start({ identify });
    const socket = await sockets.connect();
    // The user also applies to metadata before any join.
    expect((await set(socket)).metadata.k.authorUid).toBe('ada');
    expect(await join(socket, { userId: 'mallory' })).toEqual({
      ...FORBIDDEN,
      error: expect.stringMatching(/^userId is not the user of this socket/),
    });
    expect(await redis.exists(`prs:conn:${socket.id}`)).toBe(0);
    expect(await join(socket, { userId: undefined })).toMatchObject({
      ok: true,
      snapshot: [{ userId: 'ada' }],
    });
    expect(await join(socket)).toMatchObject({ ok: true });
  });

  test.each([
    ['throws', () => Promise.reject(new Error('no session')), /identify failed .*no session/],
    ['gives nothing', () => undefined, /^$/],
    ['returns no id', () => 7, /^$/],
    ['returns an empty id', () => '', /^$/],
  ])('a function that %s refuses the request, but not later ones', async (_, fails, logged) => {
    const logger = keepLog();
    let identify: () => unknown = fails;
    await start({ identify: () => identify(), logger });
    const socket = await sockets.connect();
    expect(await join(socket)).toEqual(FORBIDDEN);
    expect(await set(socket)).toEqual(FORBIDDEN);
    expect(logger.lines.filter((line) => line.startsWith('error')).join('\n')).toMatch(logged);
    identify = () => 'ada';
    expect(await set(socket)).toMatchObject({ ok: true });
    expect(await join(socket)).toMatchObject({ ok: true });
  });
});

describe('17.5: authorize', () => {
  test('is called for every action of a socket', async () => {
    const asked: SocketRequest[] = [];
    const service = serviceOn(redis);
    const authorize = (request: SocketRequest) => asked.push(request) > 0;
    onTestFinished(registerPresenceHandlers({ io: sockets.io, logger: {}, authorize }, service));
    const socket = await sockets.connect();
    const data = [{ key: 'k', value: 'v' }];
    await set(socket);
    await join(socket, { state: { mic: true } });
    await heartbeat(socket, { patchState: { mic: false } });
    for (const event of ['updateChannel', 'getChannel', 'removeChannel']) {
      const ack = await socket.emitWithAck(`metadata:${event}`, { ...channel, data });
      expect(ack, event).toMatchObject({ ok: true });
    }
    await socket.emitWithAck('presence:leave');
    const server = sockets.io.sockets.sockets.get(socket.id ?? '');
    expect(asked.every((request) => request.socket === server)).toBe(true);
    const in_ = { userId: 'ada', roomId: 'r' };
    const item = expect.objectContaining({ key: 'k', value: 'v' });
    expect(asked).toMatchObject([
      { userId: undefined, action: 'metadata:set', roomId: undefined, channel, data: [item] },
      { ...in_, action: 'join', data: { mic: true } },
      { ...in_, action: 'heartbeat', data: { mic: false } },
      { ...in_, action: 'metadata:update', channel, data: [item] },
      { ...in_, action: 'metadata:get', channel },
      { ...in_, action: 'metadata:remove', channel },
      { ...in_, action: 'leave' },
    ]);
  });

  test('refused actions are not performed', async () => {
    let refused = '';
    await start({ authorize: ({ action }: Untyped) => action !== refused });
    const socket = await sockets.connect();
    refused = 'join';
    expect(await join(socket)).toEqual({
      ...FORBIDDEN,
      error: 'the server does not allow this socket: join',
    });
    expect(sockets.io.sockets.adapter.rooms.has('r')).toBe(false);
    refused = '';
    await join(socket, { state: { a: 1 } });
    refused = 'heartbeat';
    expect(await heartbeat(socket, { patchState: { a: 2 } })).toEqual(FORBIDDEN);
    expect(await redis.hget(`prs:conn:${socket.id}`, 'state')).toBe('{"a":1}');
    refused = 'leave';
    expect(await socket.emitWithAck('presence:leave')).toEqual(FORBIDDEN);
    refused = 'metadata:set';
    expect(await set(socket)).toEqual(FORBIDDEN);
    expect(await redis.keys('prs:{chan:*')).toEqual([]);
    // A disconnection needs no permission.
    refused = 'leave';
    socket.close();
    await eventually(async () => (await redis.exists(`prs:conn:${socket.id}`)) === 0);
  });

  test.each([
    [
      'throws',
      () => {
        throw new Error('no answer');
      },
      /authorize failed for join .*no answer/,
    ],
    [
      'rejects',
      async () => {
        throw new Error('no answer');
      },
      /authorize failed .*no answer/,
    ],
    ['returns a value other than true', () => 1, /^$/],
    ['resolves to a value other than true', async () => 'yes', /^$/],
    ['gives nothing', () => {}, /^$/],
  ])('a function that %s refuses', async (_, authorize, logged) => {
    const logger = keepLog();
    await start({ authorize, logger });
    const socket = await sockets.connect();
    expect(await join(socket)).toEqual(FORBIDDEN);
    expect(logger.lines.filter((line) => line.startsWith('error')).join('\n')).toMatch(logged);
  });

  test('a slow authorize keeps the order of patches', async () => {
    const waiting: (() => void)[] = [];
    await start({
      authorize: ({ action }: Untyped) =>
        action !== 'heartbeat' || new Promise((resolve) => waiting.push(() => resolve(true))),
    });
    const socket = await sockets.connect();
    await join(socket);
    const acks = [1, 2, 3].map((a) => heartbeat(socket, { patchState: { a } }));
    await eventually(() => expect(waiting).toHaveLength(3));
    for (const allow of waiting.reverse()) {
      allow();
      await new Promise(setImmediate);
    }
    expect(await Promise.all(acks)).toMatchObject([
      { changed: true },
      { changed: true },
      { changed: true },
    ]);
    expect(await redis.hget(`prs:conn:${socket.id}`, 'state')).toBe('{"a":3}');
  });
});

describe('17.5: quotas', () => {
  const limited = (message: RegExp) => ({
    ok: false,
    code: 'RATE_LIMITED',
    error: expect.stringMatching(message),
  });
  const rates: [string, (socket: Socket) => Promise<Untyped>][] = [
    ['joinsPerSecond', (socket) => join(socket)],
    ['joinsPerSecond', (socket) => socket.emitWithAck('presence:leave')],
    ['patchesPerSecond', (socket) => heartbeat(socket, { patchState: { at: Math.random() } })],
    ['metadataPerSecond', (socket) => set(socket)],
    ['metadataPerSecond', (socket) => socket.emitWithAck('metadata:getChannel', channel)],
  ];
  test.each(rates)('%s: above it, that socket is refused, and no other', async (name, send) => {
    await start({ quotas: { [name]: 4 } });
    const [socket, other] = [await sockets.connect(), await sockets.connect()];
    // The first join counts too.
    await join(other);
    await join(socket);
    const acks = await Promise.all(Array.from({ length: 8 }, () => send(socket)));
    const refused = acks.filter(({ ok }) => !ok);
    expect(refused.length).toBeGreaterThanOrEqual(4);
    expect(refused[0]).toEqual(
      limited(new RegExp(`^quotas\\.${name} is 4: this socket has .* in \\d+ ms$`)),
    );
    expect(await send(other)).toMatchObject({ ok: true });
    // The quota refills.
    await eventually(async () => expect(await send(socket)).toMatchObject({ ok: true }), {
      intervalMs: 100,
    });
  });

  test('bytesPerSecond', async () => {
    await start({ quotas: { bytesPerSecond: 10_000 } });
    const socket = await sockets.connect();
    expect(await join(socket, { state: { text: 'x'.repeat(20_000) } })).toEqual(
      limited(/^quotas\.bytesPerSecond is 10000: this payload alone is longer/),
    );
    expect(await join(socket, { state: { text: 'x'.repeat(9_000) } })).toMatchObject({ ok: true });
    const patchState = { list: Array.from({ length: 300 }, (_, i) => ({ i })) };
    expect(await heartbeat(socket, { patchState })).toEqual(
      limited(/^quotas\.bytesPerSecond is 10000: this socket has sent more; .* in \d+ ms$/),
    );
    // Bytes of binary payloads and of invalid payloads count too.
    for (const args of [[Buffer.alloc(20_000)], [0, Buffer.alloc(20_000)]]) {
      expect(await socket.emitWithAck('presence:leave', ...args)).toMatchObject({
        code: 'RATE_LIMITED',
      });
    }
  });

  test('by default, one socket cannot fill Redis with metadata', async () => {
    await start({});
    const socket = await sockets.connect();
    const began = performance.now();
    const acks = await Promise.all(
      Array.from({ length: 2000 }, (_, i) => set(socket, { channelName: `n${i}` })),
    );
    const seconds = (performance.now() - began) / 1000;
    const made = acks.filter(({ ok }) => ok).length;
    expect(made).toBeGreaterThan(0);
    expect(made).toBeLessThanOrEqual(20 * (1 + seconds) + 1);
    expect(await redis.keys('prs:{chan:*')).toHaveLength(made);
  });

  test('Infinity disables a quota', async () => {
    const off = Number.POSITIVE_INFINITY;
    await start({ quotas: { metadataPerSecond: off, bytesPerSecond: off, queuedPerSocket: off } });
    const socket = await sockets.connect();
    const acks = await Promise.all(Array.from({ length: 300 }, () => set(socket)));
    expect(acks.every(({ ok }) => ok)).toBe(true);
  });
});

test.each([
  ['identify', { identify: 'ada' }, /^identify must be a function/],
  ['authorize', { authorize: true }, /^authorize must be a function/],
  ['quotas', { quotas: 5 }, /^quotas takes an object/],
  ['a quota', { quotas: { joinsPerSecond: 0 } }, /^quotas\.joinsPerSecond must be a number from 1/],
  ['a quota', { quotas: { bytesPerSecond: '5' } }, /^quotas\.bytesPerSecond must be a number/],
  ['an unknown quota', { quotas: { leaves: 5 } }, /^quotas has no field "leaves"/],
])('an invalid %s is refused at once', (_, options, message) => {
  const given = { io: { on() {}, off() {} }, redis: 'redis://h', ...options } as Untyped;
  expect(() => initPresence(given)).toThrow(message);
  const service = serviceOn('redis://h');
  expect(() => registerPresenceHandlers(given, service)).toThrow(message);
});
