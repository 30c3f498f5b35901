// Heartbeats during a close or a loss of the connection: every Promise settles (spec 5, 11.3).
import { describe, expect, test } from 'vitest';
import { openClient, type Untyped } from '../support/clients.js';
import { startProxy } from '../support/proxy.js';
import { startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };
const CONNS = Array.from({ length: 100 }, (_, i) => `c${i}`);

async function joinAll(client: Untyped): Promise<void> {
  await Promise.all(CONNS.map((connId) => client.join({ ...IDS, connId, snapshot: false })));
}

/** Sends many heartbeats at once, every third with a patch. */
function heartbeatAll(client: Untyped, count: number): Promise<unknown>[] {
  return Array.from({ length: count }, (_, i) =>
    client.heartbeat({
      connId: CONNS[i % CONNS.length],
      ...(i % 3 === 0 && { patchState: { i } }),
    }),
  );
}

function codes(results: PromiseSettledResult<unknown>[]): Set<string> {
  return new Set(
    results.map((result) => (result.status === 'rejected' ? result.reason.code : 'ok')),
  );
}

describe('5: an interrupted batch', () => {
  test('by close(): earlier heartbeats are completed', async () => {
    await using server = await startRedis();
    const client = await openClient(server.url);
    await joinAll(client);
    const heartbeats = heartbeatAll(client, 5000);
    await new Promise(setImmediate);
    heartbeats.push(...heartbeatAll(client, 100));
    const settled = Promise.allSettled(heartbeats);
    await client.close();
    expect(codes(await within(settled, 100, 'every Promise'))).toEqual(new Set(['ok']));
    expect(client.metrics().heartbeatQueue).toBe(0);
  });

  test('by a close() within the batch window: it does not wait for the window', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, batchWindowMs: 30_000 });
    await joinAll(client);
    const settled = Promise.allSettled(heartbeatAll(client, 50));
    await within(client.close(), 5000, 'close');
    expect(codes(await within(settled, 100, 'every Promise'))).toEqual(new Set(['ok']));
  });

  test.each([
    { cut: 'the batch script', at: 'EVALSHA', without: '"mark"' },
    { cut: 'patches', at: '"mark"', without: 'in no command' },
  ])(
    'by a disconnect while $cut is in flight: plain heartbeats are sent again, patches have an unknown outcome',
    async ({ at, without }) => {
      await using server = await startRedis();
      const admin = await server.client();
      await using proxy = await startProxy(server.port);
      const client = await openClient(proxy.url);
      await joinAll(client);
      let cuts = 0;
      proxy.watch = async (piece) => {
        if (cuts === 0 && piece.includes(at) && !piece.includes(without)) {
          cuts++;
          await admin.call('CLIENT', 'KILL', 'USER', 'default');
        }
        return piece;
      };
      const plain = CONNS.slice(0, 50).map((connId) => client.heartbeat({ connId }));
      const results = await within(Promise.allSettled(plain), 10_000, 'plain heartbeats');
      const patched = CONNS.slice(50).map((connId) =>
        client.heartbeat({ connId, patchState: { mark: connId } }),
      );
      const others = await within(Promise.allSettled(patched), 10_000, 'patches');
      expect(cuts).toBe(1);
      expect(codes(results)).toEqual(new Set(['ok']));
      const failed = others.filter((result) => result.status === 'rejected');
      for (const { reason } of failed) {
        expect(reason).toMatchObject({ code: 'UNAVAILABLE', outcome: 'unknown' });
      }
      expect(failed.length > 0).toBe(at === '"mark"');
    },
  );

  test.each(['v1', 'slotted'] as const)(
    '12: by a disconnect while a patch is in flight: plain heartbeats of the same batch are sent again (%s)',
    async (layout) => {
      await using server = await startRedis();
      const admin = await server.client();
      await using proxy = await startProxy(server.port);
      await joinAll(await openClient({ url: server.url, layout }));
      // A node without these connections in its cache looks them up, and sends all heartbeats
      // together.
      const client = await openClient({ url: proxy.url, layout });
      let cuts = 0;
      proxy.watch = async (piece) => {
        if (cuts === 0 && piece.includes('"mark"')) {
          cuts++;
          await admin.call('CLIENT', 'KILL', 'USER', 'default');
        }
        return piece;
      };
      const heartbeats = CONNS.map((connId, i) =>
        client.heartbeat({ connId, ...(i === 50 && { patchState: { mark: i } }) }),
      );
      const results = await within(Promise.allSettled(heartbeats), 10_000, 'every Promise');
      expect(cuts).toBe(1);
      const patch = results.splice(50, 1)[0];
      expect(patch).toMatchObject({ reason: { code: 'UNAVAILABLE', outcome: 'unknown' } });
      expect(codes(results)).toEqual(new Set(['ok']));
    },
  );

  test('by CLIENT KILL, repeatedly', async () => {
    await using server = await startRedis();
    const admin = await server.client();
    const client = await openClient(server.url);
    await joinAll(client);
    const rounds: Promise<PromiseSettledResult<unknown>[]>[] = [];
    for (let round = 0; round < 5; round++) {
      rounds.push(Promise.allSettled(heartbeatAll(client, 600)));
      await admin.call('CLIENT', 'KILL', 'USER', 'default');
    }
    const results = (await within(Promise.all(rounds), 15_000, 'every Promise')).flat();
    for (const result of results) {
      if (result.status === 'fulfilled') continue;
      expect(result.reason.code).toBe('UNAVAILABLE');
    }
    expect(codes(results)).toContain('ok');
    // The client works as before.
    await eventually(() => client.heartbeatMany(CONNS.map((connId) => ({ connId }))));
    const after = await client.heartbeatMany(CONNS.map((connId) => ({ connId })));
    expect(after.filter((result) => result instanceof Error)).toEqual([]);
  });

  test('by a crash of the server: UNAVAILABLE, within the command timeout', async () => {
    const server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
    await joinAll(client);
    server.pause();
    const settled = Promise.allSettled(heartbeatAll(client, 2000));
    await new Promise(setImmediate);
    await server[Symbol.asyncDispose]();
    const seen = codes(await within(settled, 15_000, 'every Promise'));
    for (const code of seen) expect(['UNAVAILABLE', 'TIMEOUT']).toContain(code);
  });
});
