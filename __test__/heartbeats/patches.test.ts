// The cost of a heartbeat with a patch, in commands.
import { describe, expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { startRedis } from '../support/redis.js';

const PATCHES = 50;

describe.each(['v1', 'slotted'] as const)(
  '9.3 a patch of a small state is one call (%s)',
  (layout) => {
    test('one after the other: one EVALSHA for each, and no other command', async () => {
      await using server = await startRedis();
      const admin = await server.client();
      const client = await openClient({ url: server.url, layout, ttlMs: 600_000 });
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await admin.config('RESETSTAT');
      for (let n = 1; n <= PATCHES; n++) {
        const heartbeat = { connId: 'c', epoch, patchState: { n } };
        expect(await client.heartbeat(heartbeat)).toEqual({ changed: true, epoch });
      }
      const { evalsha, publish, spublish = 0, hgetall = 0, hmget } = await commandCalls(admin);
      expect({ evalsha, events: publish, spublish, hgetall, hmget }).toEqual({
        evalsha: PATCHES,
        events: PATCHES,
        spublish: 0,
        hgetall: 0,
        hmget: PATCHES,
      });
    });

    test('a concurrent heartbeat of a missing connection costs one more lookup, once', async () => {
      await using server = await startRedis();
      const admin = await server.client();
      const client = await openClient({ url: server.url, layout, ttlMs: 600_000 });
      const { epoch } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      await admin.config('RESETSTAT');
      const late = client.heartbeat({ connId: 'c', epoch: epoch - 1, patchState: { n: 1 } });
      await expect(late).rejects.toMatchObject({ code: 'STALE_EPOCH' });
      expect((await commandCalls(admin)).evalsha).toBe(1);
    });
  },
);
