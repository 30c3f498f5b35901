// What a burst of patches may take (spec 5.4, 9.3): memory, time when Redis does not answer, and the
// processor, which others need too.
import { describe, expect, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { sharedDb, startRedis } from '../support/redis.js';
import { startClock } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

/** How many of the results failed with each code. */
function codes(results: PromiseSettledResult<unknown>[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const result of results) {
    const code = result.status === 'rejected' ? result.reason.code : 'none';
    counts[code] = (counts[code] ?? 0) + 1;
  }
  return counts;
}

describe('5.4: heartbeats that wait anywhere in the engine count', () => {
  test('5.4 maxQueue 10, Redis paused, 1000 patches for one connection: 990 are refused', async () => {
    await using server = await startRedis();
    const limits = { maxQueue: 10, commandTimeoutMs: 20_000 };
    const client = await openClient({ url: server.url, limits });
    await client.join(IDS);
    server.pause();
    const big = 'x'.repeat(10_000);
    const beats: Promise<PromiseSettledResult<unknown>[]>[] = [];
    for (let i = 0; i < 1000; i++) {
      beats.push(Promise.allSettled([client.heartbeat({ connId: 'c', patchState: { big, i } })]));
      // The engine takes it from its queue meanwhile.
      if (i % 10 === 9) await new Promise(setImmediate);
    }
    const settled = Promise.all(beats);
    expect(client.metrics().overloaded).toBe(990);
    expect(client.metrics().heartbeatQueue).toBeLessThanOrEqual(10);
    server.resume();
    expect(codes((await settled).flat())).toEqual({ OVERLOADED: 990, none: 10 });
    // And then there is room again.
    await client.heartbeat({ connId: 'c', patchState: { after: 1 } });
    expect((await client.fetchRoomSnapshot('r'))[0]?.state).toMatchObject({ i: 9, after: 1 });
  });

  test('5.4 Redis stopped, commandTimeoutMs 500, 3000 patches: all fail within twice that', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
    await client.join(IDS);
    server.pause();
    const clock = startClock();
    const beats = Array.from({ length: 3000 }, (_, i) =>
      client.heartbeat({ connId: 'c', patchState: { [`k${i}`]: i } }),
    );
    const results = await Promise.allSettled(beats);
    // In the core's time it is exact (src/heartbeat/tests.rs); this is the clock of a busy process.
    expect(clock.ms).toBeLessThan(2000);
    const failed = results.map((result) => (result as PromiseRejectedResult).reason);
    const unsent = failed.filter(({ message }) => message.includes('Nothing was sent'));
    // Only what was sent can have been carried out: a batch, and few more when that one failed.
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

describe('9.3: patches of a large state do not keep others waiting', () => {
  test('9.3 800 KB, 95 000 keys, 3000 patches: few writes, others are served, a lock of 2 s is kept', async () => {
    const { url } = await sharedDb();
    const limits = { commandTimeoutMs: 20_000 };
    const client: Untyped = await openClient({ url, ttlMs: 600_000, limits });
    const state: Record<string, number> = {};
    for (let i = 0; Object.keys(state).length < 95_000; i++) state[i.toString(36)] = 1;
    for (let i = 0; i < 500; i++) state[`a longer key, ${i}`] = 1;
    await client.join({ ...IDS, state, snapshot: false });
    await client.join({ ...IDS, connId: 'other', snapshot: false });
    await using lock = await client.locks.acquire('l', { ownerId: 'u', ttlMs: 2000 });
    const batches = client.metrics().heartbeatBatches;
    let done = false;
    const burst = Promise.all(
      Array.from({ length: 3000 }, (_, i) =>
        client.heartbeat({ connId: 'c', patchState: { [i.toString(36)]: -1, last: i } }),
      ),
    ).finally(() => {
      done = true;
    });
    let served = 0;
    while (!done) {
      await client.heartbeat({ connId: 'other' });
      served++;
    }
    const results = await burst;
    expect(results.every(({ changed }: Untyped) => changed)).toBe(true);
    // 256 patches of a connection share a merge and a write.
    const writes = client.metrics().heartbeatBatches - batches - served;
    expect(writes).toBeLessThanOrEqual(Math.ceil(3000 / 256) + 4);
    // One after the other, each a round trip: more than one for each write of the burst.
    expect(served).toBeGreaterThan(3 * Math.ceil(3000 / 256));
    expect(lock.lost.aborted).toBe(false);
    expect(await client.locks.inspect('l')).toMatchObject({ fencingToken: lock.fencingToken });
    const [{ state: after }] = (await client.fetchRoomSnapshot('r')).filter(
      ({ connId }: Untyped) => connId === 'c',
    );
    expect(after).toMatchObject({ last: 2999, '0': -1, '2bb': -1, '2bc': 1 });
    await client.leave('c');
    await client.leave('other');
  }, 60_000);
});
