// Limits for a burst of patches (spec 5.4): space in the queue, and time when Redis does not
// answer.
import { describe, expect, test } from 'vitest';
import { openClient } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { startClock } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

/** The number of failures with each code. */
function codes(results: PromiseSettledResult<unknown>[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const result of results) {
    const code = result.status === 'rejected' ? result.reason.code : 'none';
    counts[code] = (counts[code] ?? 0) + 1;
  }
  return counts;
}

describe('5.4: all waiting heartbeats of the engine count', () => {
  test('5.4 maxQueue 10, Redis paused, 1000 patches for one connection: 990 are refused', async () => {
    await using server = await startRedis();
    const limits = { maxQueue: 10, commandTimeoutMs: 20_000 };
    const client = await openClient({ url: server.url, limits });
    await client.join(IDS);
    server.pause();
    const big = 'x'.repeat(10_000);
    const heartbeats: Promise<PromiseSettledResult<unknown>[]>[] = [];
    for (let i = 0; i < 1000; i++) {
      heartbeats.push(
        Promise.allSettled([client.heartbeat({ connId: 'c', patchState: { big, i } })]),
      );
      // In the meantime, the engine takes the first from its queue.
      if (i % 10 === 9) await new Promise(setImmediate);
    }
    const settled = Promise.all(heartbeats);
    expect(client.metrics().overloaded).toBe(990);
    expect(client.metrics().heartbeatQueue).toBeLessThanOrEqual(10);
    server.resume();
    expect(codes((await settled).flat())).toEqual({ OVERLOADED: 990, none: 10 });
    // Afterwards there is space again.
    await client.heartbeat({ connId: 'c', patchState: { after: 1 } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toMatchObject({ i: 9, after: 1 });
  });

  test('5.4 Redis stopped, commandTimeoutMs 500, 3000 patches: all fail within twice that', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
    await client.join(IDS);
    server.pause();
    const clock = startClock();
    const heartbeats = Array.from({ length: 3000 }, (_, i) =>
      client.heartbeat({ connId: 'c', patchState: { [`k${i}`]: i } }),
    );
    const results = await Promise.allSettled(heartbeats);
    // The core measures this exactly (src/heartbeat/tests.rs); this is the clock of a busy process.
    expect(clock.ms).toBeLessThan(2000);
    const failed = results.map((result) => (result as PromiseRejectedResult).reason);
    const unsent = failed.filter(({ message }) => message.includes('Nothing was sent'));
    // Only sent patches can have been applied: one batch, and a few more after its failure.
    const sent = failed.filter(({ outcome }) => outcome === 'unknown');
    expect(sent.length).toBeGreaterThan(0);
    expect(sent.length).toBeLessThanOrEqual(1500);
    expect(unsent).toHaveLength(results.length - sent.length);
    expect(new Set(unsent.map(({ code, outcome }) => `${code} ${outcome}`))).toEqual(
      new Set(['UNAVAILABLE undefined']),
    );
    server.resume();
  });
});

describe('9.3: a patch of a large state does not delay other work', () => {
  test('9.3 3000 patches of a state of 95 000 keys: a lock with a TTL of 2 s is kept, and heartbeats of others are answered', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 60_000 } });
    const state = Object.fromEntries(Array.from({ length: 95_000 }, (_, i) => [`k${i}`, 1]));
    await client.join({ ...IDS, state });
    await client.join({ ...IDS, connId: 'other' });
    const lock = await client.locks.acquire('held', { ownerId: 'u', ttlMs: 2_000 });
    let settled = false;
    const burst = Promise.all(
      Array.from({ length: 3_000 }, (_, i) =>
        client.heartbeat({ connId: 'c', patchState: { [`k${i}`]: 2 } }),
      ),
    ).finally(() => {
      settled = true;
    });
    let longest = 0;
    let answered = 0;
    while (!settled) {
      const clock = startClock();
      await client.heartbeat({ connId: 'other' });
      longest = Math.max(longest, clock.ms);
      answered += 1;
    }
    expect((await burst).every(({ changed }) => changed)).toBe(true);
    expect(lock.lost.aborted).toBe(false);
    await lock.release();
    console.info(`${answered} heartbeats of another connection meanwhile, ${longest} ms at most`);
    expect(answered).toBeGreaterThan(10);
    const [entry] = await client
      .fetchRoomSnapshot('r')
      .then((all) => all.filter(({ connId }) => connId === 'c'));
    expect(Object.values(entry?.state ?? {}).filter((value) => value === 2)).toHaveLength(3_000);
  });
});
