// `close()`: drains, settles every Promise, is idempotent; later calls reject (spec 11.3).
import { PresenceClient } from 'rollcall';
import { describe, expect, test } from 'vitest';
import { openClient, rejection, type Untyped } from '../support/clients.js';
import { sharedDb, startRedis } from '../support/redis.js';
import { eventually, within } from '../support/wait.js';

const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

describe.each(['redis', 'memory'] as const)('11.3 on %s: close()', (store) => {
  const url = async () => (store === 'redis' ? (await sharedDb()).url : 'memory://');

  test('drains: earlier calls are completed and settled', async () => {
    const shared = store === 'redis' ? await url() : 'memory://drained';
    const client = await openClient(shared);
    const other = await openClient(shared);
    await client.join(IDS);
    const calls = [
      ...Array.from({ length: 50 }, (_, i) => client.join({ ...IDS, connId: `c${i}` })),
      ...Array.from({ length: 500 }, () => client.heartbeat({ connId: 'c' })),
      ...Array.from({ length: 50 }, (_, i) =>
        client.heartbeat({ connId: 'c', patchState: { [`k${i}`]: i } }),
      ),
      client.heartbeatMany([{ connId: 'c' }, { connId: 'unknown' }]),
      client.fetchRoomSnapshot('r'),
    ];
    await client.close();
    const settled = await within(Promise.allSettled(calls), 100, 'every Promise');
    expect(settled.filter(({ status }) => status === 'rejected')).toEqual([]);
    const members = await other.fetchRoomSnapshot('r');
    expect(members).toHaveLength(51);
    const patched = members.find(({ connId }) => connId === 'c')?.state;
    expect(Object.keys(patched ?? {})).toHaveLength(50);
    await Promise.all(members.map(({ connId }) => other.leave(connId)));
  });

  test('is idempotent, and every call waits for the same end', async () => {
    const client = await openClient(await url());
    const first = client.close();
    expect(client.close()).toBe(first);
    await Promise.all([first, client.close(), client[Symbol.asyncDispose]()]);
    await client.close();
  });

  test('later calls reject with CLOSED', async () => {
    const client: Untyped = await openClient(await url());
    const stop = await client.subscribe(() => {});
    const closing = client.close();
    for (const when of ['while it closes', 'when it is closed']) {
      for (const [name, call] of Object.entries<() => Promise<unknown>>({
        join: () => client.join(IDS),
        heartbeat: () => client.heartbeat({ connId: 'c' }),
        patch: () => client.heartbeat({ connId: 'c', patchState: {} }),
        heartbeatMany: () => client.heartbeatMany([{ connId: 'c' }]),
        'heartbeatMany of none': () => client.heartbeatMany([]),
        leave: () => client.leave('c'),
        fetchRoomSnapshot: () => client.fetchRoomSnapshot('r'),
        getUserPresence: () => client.getUserPresence('u'),
        subscribe: () => client.subscribe(() => {}),
        events: () => client.events().next(),
        startReaper: () => client.startReaper(),
        reapOnce: () => client.reapOnce(),
      })) {
        expect((await rejection(call)).code, `${name} ${when}`).toBe('CLOSED');
      }
      await closing;
    }
    // Unsubscribing is harmless, so that clean-up code needs no order.
    await stop();
    expect(client.metrics().pendingCalls).toBe(0);
  });

  test('can be called in a handler, and no handler is called afterwards', async () => {
    const shared = store === 'redis' ? await url() : 'memory://handlers';
    const client = await openClient(shared);
    const other = await openClient(shared);
    let closed = false;
    const heardAfter: string[] = [];
    let closing: Promise<void> | undefined;
    await client.subscribe(({ connId }) => {
      if (closed) heardAfter.push(connId);
      closing ??= client.close().then(() => {
        closed = true;
      });
    });
    const joins = Array.from({ length: 300 }, (_, i) =>
      other.join({ ...IDS, connId: `c${i}`, snapshot: false }),
    );
    await eventually(() => closed);
    await Promise.all(joins);
    await Promise.all(joins.map((_, i) => other.leave(`c${i}`)));
    expect(heardAfter).toEqual([]);
    await closing;
  });

  test('`await using` closes', async () => {
    let escaped: PresenceClient<Untyped>;
    {
      await using client = await PresenceClient.connect({ url: await url(), logger: {} });
      await client.join(IDS);
      await client.leave('c');
      escaped = client;
    }
    expect((await rejection(() => escaped.leave('c'))).code).toBe('CLOSED');
  });
});

describe('11.3: close() when Redis does not answer', () => {
  test('settles every Promise within the command timeout, including its own', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
    await client.join(IDS);
    server.pause();
    const calls = [
      client.join(IDS),
      client.leave('c'),
      client.heartbeat({ connId: 'c' }),
      client.heartbeat({ connId: 'c', patchState: { a: 1 } }),
      client.heartbeatMany(Array.from({ length: 1000 }, () => ({ connId: 'c' }))),
      client.fetchRoomSnapshot('r'),
    ];
    const settled = Promise.allSettled(calls);
    await within(client.close(), 3000, 'close');
    const results = await within(settled, 100, 'every Promise');
    expect(results.map(({ status }) => status)).toEqual([
      ...Array(4).fill('rejected'),
      'fulfilled',
      'rejected',
    ]);
    for (const result of results) {
      if (result.status === 'rejected') {
        expect(['TIMEOUT', 'UNAVAILABLE']).toContain(result.reason.code);
      }
    }
  });

  test('while Redis is down', async () => {
    const server = await startRedis();
    const client = await openClient({ url: server.url, limits: { commandTimeoutMs: 500 } });
    await client.subscribe(() => {});
    await client.startReaper();
    await server[Symbol.asyncDispose]();
    const call = client.join(IDS).catch((error) => error.code);
    await within(client.close(), 3000, 'close');
    expect(await within(call, 100, 'the call')).toBe('UNAVAILABLE');
  });

  test('closes all connections to Redis', async () => {
    await using server = await startRedis();
    const admin = await server.client();
    const count = async () =>
      String(await admin.client('LIST'))
        .trim()
        .split('\n').length;
    const before = await count();
    const clients = await Promise.all(Array.from({ length: 10 }, () => openClient(server.url)));
    await Promise.all(clients.map((client) => client.subscribe(() => {})));
    expect(await count()).toBe(before + 20);
    await Promise.all(clients.map((client) => client.close()));
    await eventually(async () => expect(await count()).toBe(before));
  });
});
