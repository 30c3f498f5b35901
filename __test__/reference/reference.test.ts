// Checks the reference, which stands in for legacy nodes: it uses the layout of the specification,
// and has the known weaknesses of the legacy implementation.
import { Redis } from 'ioredis';
import { beforeEach, expect, test } from 'vitest';
import { sharedDb } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { type ReferenceEvent, ReferencePresenceService } from './service.js';

let redis: Redis;
const services: ReferencePresenceService[] = [];
beforeEach(async () => {
  const { url } = await sharedDb();
  redis = new Redis(url);
  return async () => {
    for (const service of services.splice(0)) await service.stop();
    redis.disconnect();
  };
});

function reference(ttlMs = 60_000): ReferencePresenceService {
  const options = { ttlMs, reaperIntervalMs: 20, reaperLookbackMs: 2 * ttlMs };
  const service = new ReferencePresenceService(redis, options);
  services.push(service);
  return service;
}

test('writes the keys of the table, and none of Rollcall’s own', async () => {
  const service = reference();
  const [entry] = await service.join({ roomId: 'r', userId: 'u', connId: 'c', state: { a: 1 } });
  expect(entry).toMatchObject({ connId: 'c', userId: 'u', state: { a: 1 } });
  await service.setChannelMetadata({ channelType: 't', channelName: 'n', data: [{ key: 'k' }] });
  expect((await redis.keys('*')).sort()).toEqual([
    'prs:active_rooms',
    'prs:conn:c',
    'prs:user:u:conns',
    'prs:{chan:t:n}:meta',
    'prs:{room:r}:conn_meta',
    'prs:{room:r}:conns',
    'prs:{room:r}:last_seen',
    'prs:{room:r}:members',
  ]);
  expect(await service.leave('c')).toEqual({ roomId: 'r', userId: 'u' });
  expect(await redis.keys('*')).toEqual(['prs:{chan:t:n}:meta']);
});

test('a connection that moves stays listed in its first room', async () => {
  const service = reference();
  await service.join({ roomId: 'a', userId: 'u', connId: 'c' });
  await service.join({ roomId: 'b', userId: 'u', connId: 'c' });
  for (const room of ['a', 'b']) expect(await service.fetchRoomSnapshot(room)).toHaveLength(1);
});

test('several reapers announce one dead connection several times', async () => {
  const events: ReferenceEvent[] = [];
  await reference().subscribe((event) => events.push(event));
  await Promise.all(
    Array.from({ length: 50 }, (_, i) =>
      reference(40).join({ roomId: 'r', userId: `u${i}`, connId: `c${i}` }),
    ),
  );
  for (const service of services.slice(0, 8)) service.startReaper();
  await eventually(async () => expect(await redis.keys('*')).toEqual([]));
  await eventually(() => {
    const left = events.filter(({ type }) => type === 'leave');
    expect(new Set(left.map(({ connId }) => connId)).size).toBe(50);
    expect(left.length).toBeGreaterThan(50);
  });
});
