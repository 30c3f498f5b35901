// Projects whose tests use ioredis-mock: it does not connect to a Redis, so Rollcall uses the
// in-process store.
import { createRequire } from 'node:module';
import { Redis } from 'ioredis';
import { initPresence, type PresenceEvent, PresenceService } from 'rollcall';
import { expect, onTestFinished, test } from 'vitest';
import { eventually } from '../support/wait.js';
import { OPTIONS, serviceOn, socketServer } from './services.js';

// As CommonJS: its types are for another major version of ioredis.
const RedisMock = createRequire(import.meta.url)('ioredis-mock') as typeof Redis;

let ports = 10_000;
/** Mocks of one address share their data, even between tests. */
const mockOptions = () => ({ port: ++ports });

test('a service on a mock uses the in-process store, and logs that', async () => {
  const lines: unknown[] = [];
  const logger = { warn: (line: unknown) => lines.push(line) };
  const options = mockOptions();
  const service = serviceOn(new RedisMock(options), { logger });
  const events: PresenceEvent[] = [];
  await service.subscribe((event) => void events.push(event));
  await service.join({ roomId: 'r', userId: 'u', connId: 'c' });
  expect(await service.heartbeat({ connId: 'c', patchState: { a: 1 } })).toBe(true);
  await service.setChannelMetadata({ channelType: 't', channelName: 'n', data: [{ key: 'k' }] });
  expect(await service.leave('c')).toEqual({ roomId: 'r', userId: 'u' });
  await eventually(() =>
    expect(events.map(({ type }) => type)).toEqual(['join', 'update', 'leave']),
  );
  expect(lines.filter((line) => String(line).includes('ioredis-mock'))).toHaveLength(1);
});

test('services on mocks of one address share a store; those of another address, db or prefix do not', async () => {
  const options = mockOptions();
  const first = serviceOn(new RedisMock(options));
  await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
  class Mine extends RedisMock {}
  const listed = async (redis: Redis) =>
    (await serviceOn(redis).fetchRoomSnapshot('r')).map(({ connId }) => connId);
  expect(await listed(new RedisMock(options))).toEqual(['c']);
  expect(await listed(new Mine(options))).toEqual(['c']);
  expect(await listed(new RedisMock(mockOptions()))).toEqual([]);
  expect(await listed(new RedisMock({ ...options, db: 1 }))).toEqual([]);
  expect(await listed(new RedisMock({ ...options, keyPrefix: 'p:' }))).toEqual([]);
});

test('when every service has stopped, the store is empty', async () => {
  const options = mockOptions();
  const first = new PresenceService(new RedisMock(options), { ...OPTIONS, logger: {} });
  await first.join({ roomId: 'r', userId: 'u', connId: 'c' });
  await first.stop();
  expect(await serviceOn(new RedisMock(options)).fetchRoomSnapshot('r')).toEqual([]);
});

test('initPresence on a mock, and a cluster of mocks', async () => {
  const { io, connect } = await socketServer();
  const handle = await initPresence({ io, redis: new RedisMock(mockOptions()), logger: {} });
  onTestFinished(() => handle.dispose());
  const socket = await connect();
  const joined = await socket.emitWithAck('presence:join', { roomId: 'r', userId: 'u' });
  expect(joined).toMatchObject({ ok: true, snapshot: [{ userId: 'u' }] });
  const cluster = new RedisMock.Cluster(['redis://localhost:7001']);
  expect(await serviceOn(cluster).fetchRoomSnapshot('nobody')).toEqual([]);
});

test('a real ioredis client is not taken for a mock', async () => {
  const redis = new Redis({ port: 1, lazyConnect: true });
  onTestFinished(() => redis.disconnect());
  const refused = serviceOn(redis, { client: { limits: { connectTimeoutMs: 500 } } });
  await expect(refused.fetchRoomSnapshot('r')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
});
