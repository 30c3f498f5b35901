// Calls that want the same room at the same time share readings of it.
import type { Redis } from 'ioredis';
import { expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { commandCalls } from '../support/command-stats.js';
import { startRedis } from '../support/redis.js';

const MEMBERS = 200;
const JOINS = 16;

async function readings(admin: Redis): Promise<number> {
  return (await commandCalls(admin)).smembers ?? 0;
}

test.each(['v1', 'slotted'] as const)(
  '3.1 16 joins at once into a room share its readings, and each is in its own snapshot (%s)',
  async (layout) => {
    await using server = await startRedis();
    const admin = await server.client();
    const client = await openClient({ url: server.url, layout, ttlMs: 600_000 });
    const join = (connId: string, snapshot: boolean) =>
      client.join({ roomId: 'r', userId: 'u', connId, snapshot });
    await Promise.all(Array.from({ length: MEMBERS }, (_, i) => join(`c${i}`, false)));
    await admin.config('RESETSTAT');
    const connIds = Array.from({ length: JOINS }, (_, i) => `joins${i}`);
    const joined = await Promise.all(connIds.map((connId) => join(connId, true)));
    for (const [i, { snapshot }] of joined.entries()) {
      const ids = new Set(snapshot.map(({ connId }) => connId));
      expect(ids.size).toBe(snapshot.length);
      expect(ids.size).toBeGreaterThan(MEMBERS);
      expect(ids).toContain(connIds[i]);
    }
    // The first, and those that the others have waited for. Joins that are answered later than others start
    // another one.
    const count = await readings(admin);
    expect(count).toBeGreaterThan(0);
    expect(count).toBeLessThanOrEqual(JOINS / 2);
    await admin.config('RESETSTAT');
    const snapshots = await Promise.all(connIds.map(() => client.fetchRoomSnapshot('r')));
    for (const snapshot of snapshots) expect(snapshot).toHaveLength(MEMBERS + JOINS);
    // The first leads, and the others share the next one, unless a reading ends before all calls have come.
    expect(await readings(admin)).toBeLessThanOrEqual(JOINS / 2);
  },
);
