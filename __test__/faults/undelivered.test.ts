// An answer that cannot be delivered releases the resources of its call: the hand-over of answers
// panics in the core.
import { expect } from 'vitest';
import { openClient, rejection } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { type Failpoint, proven, turnOff } from './proven.js';

proven(
  '9: a failed drain releases granted locks and subscriptions, and concurrent heartbeats settle',
  { without: 'undelivered', fails: /subscribers/ },
  async (off) => {
    const failpoints = off as readonly Failpoint[];
    const server = await startRedis();
    const client = await openClient({ url: server.url });
    const other = await openClient({ url: server.url });
    const admin = await server.client();
    await client.join({ roomId: 'r', userId: 'u', connId: 'c' });

    turnOff('drain-panic', ...failpoints);
    const calls = [
      () => client.locks.acquire('l', { ownerId: 'a', ttlMs: 60_000 }),
      () => client.subscribe(() => {}, { roomId: 'r' }),
      () => client.fetchRoomSnapshot('r'),
      () => client.join({ roomId: 'r', userId: 'u', connId: 'c2' }),
    ];
    const errors = await Promise.all([
      ...calls.map(rejection),
      ...Array.from({ length: 20 }, () => rejection(() => client.getEpoch('c'))),
    ]);
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'INTERNAL', outcome: 'unknown' });
    }
    expect(await client.heartbeat({ connId: 'c' })).toMatchObject({ changed: false });
    turnOff(...failpoints);

    // Long before its TTL ends, and while its client is still open.
    const lock = await other.locks.acquire('l', { ownerId: 'b', waitMs: 10_000 });
    await lock.release();
    await eventually(async () => {
      const [, subscribers] = (await admin.pubsub('NUMSUB', 'prs:{room:r}:events')) as unknown[];
      expect(subscribers, 'subscribers').toBe(0);
    });
    expect(client.metrics()).toMatchObject({ pendingCalls: 0, locksHeld: 0, answerBytes: 0 });
    expect(await client.getEpoch('c2')).toBeGreaterThan(0);
  },
);
