// The server behind one endpoint is replaced: a proxy or a DNS name leads to another server, while
// connections to the old server may stay open. When one connection of a client moves, the client
// checks the others.
import { PresenceService } from 'rollcall';
import { describe, expect, onTestFinished } from 'vitest';
import { type FaultProxy, startProxy } from '../support/proxy.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { eventually } from '../support/wait.js';
import { proven } from './proven.js';
import { type Client, connect } from './world.js';

const WITHIN = { timeoutMs: 5_000 };
const limits = { commandTimeoutMs: 2_000, connectTimeoutMs: 1_000 };

interface Pair {
  proxy: FaultProxy;
  before: RedisServer;
  after: RedisServer;
}

/** Two servers, and a proxy that leads to the first. */
async function startPair(): Promise<Pair> {
  const [before, after] = await Promise.all([startRedis(), startRedis()]);
  onTestFinished(() => before[Symbol.asyncDispose]());
  onTestFinished(() => after[Symbol.asyncDispose]());
  const proxy = await startProxy(before.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  return { proxy, before, after };
}

/** New connections lead to the other server; `ways` is what happens to the old one. */
const WAYS = {
  'becomes read-only': async ({ before }: Pair) => {
    await (await before.client()).replicaof('127.0.0.1', 1);
  },
  'ends the connection for calls': ({ before }: Pair) => endConnections(before, 'normal'),
  'ends that for subscriptions': ({ before }: Pair) => endConnections(before, 'pubsub'),
  'ends both': async ({ proxy }: Pair) => proxy.cut(),
};

/** Closes connections of clients of one kind; not those of the server itself. */
async function endConnections(server: RedisServer, type: 'normal' | 'pubsub'): Promise<void> {
  const admin = await server.client();
  await admin.call('CLIENT', 'KILL', 'TYPE', type, 'USER', 'default');
}

async function replace(pair: Pair, way: keyof typeof WAYS): Promise<void> {
  pair.proxy.retarget(pair.after);
  await WAYS[way](pair);
}

/** Returns a function that joins a new connection with a client of the new server. */
function joins(client: Client): () => Promise<string> {
  let count = 0;
  return async () => {
    const connId = `new${++count}`;
    await client.join({ roomId: 'r', userId: 'u', connId, snapshot: false });
    return connId;
  };
}

describe('14: the server behind one endpoint is replaced', () => {
  for (const way of Object.keys(WAYS) as (keyof typeof WAYS)[]) {
    // If both end at once, both find the new server by themselves; this case shows only
    // resubscribing.
    const without = way === 'ends both' ? 'reconnect' : 'replaced';
    proven(
      `the old one ${way}: calls and events follow, with one resync`,
      { without },
      async () => {
        const pair = await startPair();
        const client = await connect({ url: pair.proxy.url, limits });
        const received: string[] = [];
        const gaps: string[] = [];
        await client.subscribe(({ connId }) => void received.push(`all ${connId}`));
        await client.subscribe(({ connId }) => void received.push(`room ${connId}`), {
          roomId: 'r',
        });
        client.on('resync', ({ reason }) => void gaps.push(reason));
        await replace(pair, way);
        const join = joins(await connect({ url: pair.after.url }));
        // The client itself makes no call.
        await eventually(async () => {
          const connId = await join();
          await eventually(
            () => {
              expect(received).toContain(`all ${connId}`);
              expect(received).toContain(`room ${connId}`);
            },
            { timeoutMs: 200 },
          );
        }, WITHIN);
        await eventually(() => expect(gaps).toEqual(['reconnected']), WITHIN);
        await client.join({ roomId: 'r', userId: 'u', connId: 'own', snapshot: false });
        const there = await (await connect({ url: pair.after.url })).fetchRoomSnapshot('r');
        expect(there.map(({ connId }) => connId)).toContain('own');
        // Further moves would be visible: each causes a resync.
        await eventually(() => expect(received).toContain('room own'), WITHIN);
        expect(gaps).toEqual(['reconnected']);
        expect(client.metrics().resyncs).toBe(1);
      },
    );
  }

  proven('notifications of expired connections follow', { without: 'replaced' }, async () => {
    const pair = await startPair();
    const options = { ttlMs: 400, expiry: 'notifications', fallbackSweepMs: 600_000 } as const;
    const client = await connect({ url: pair.proxy.url, limits, ...options });
    await client.startReaper();
    await client.join({ roomId: 'r', userId: 'u', connId: 'dies', snapshot: false });
    await eventually(() => client.metrics().notifications > 0, WITHIN);
    await replace(pair, 'ends the connection for calls');
    const other = await connect({ url: pair.after.url, ...options });
    const gone: string[] = [];
    await other.subscribe(({ type, connId }) => void (type === 'leave' && gone.push(connId)));
    await eventually(async () => {
      const before = client.metrics().notifications;
      await other.join({ roomId: 'r', userId: 'u', connId: 'later', snapshot: false });
      await eventually(() => client.metrics().notifications > before, { timeoutMs: 1_000 });
    }, WITHIN);
    await eventually(() => expect(gone).toContain('later'), WITHIN);
  });

  proven('calls to lock waiters and holders follow', { without: 'replaced' }, async () => {
    const pair = await startPair();
    const client = await connect({ url: pair.proxy.url, limits });
    // The client subscribes with its first lock.
    await (await client.locks.acquire('first', { ownerId: 'u', waitMs: 100 })).release();
    const admin = await pair.before.client();
    await eventually(async () => {
      expect(await admin.call('PUBSUB', 'CHANNELS')).toHaveLength(1);
    });
    await replace(pair, 'ends the connection for calls');
    const other = await connect({ url: pair.after.url });
    await eventually(async () => {
      const lock = await client.locks.acquire('held', { ownerId: 'u', ttlMs: 60_000, waitMs: 100 });
      try {
        // Its next renewal is 20 s away.
        expect(await other.locks.revoke('held')).toMatchObject({ ownerId: 'u' });
        await eventually(() => lock.lost.aborted, { timeoutMs: 200 });
      } finally {
        await lock.release().catch(() => {});
      }
    }, WITHIN);
  });

  proven('the socket bridge of the legacy interface follows', { without: 'replaced' }, async () => {
    const pair = await startPair();
    const options = { ttlMs: 60_000, reaperIntervalMs: 1_000, reaperLookbackMs: 60_000 };
    const service = new PresenceService(pair.proxy.url, { ...options, logger: {} });
    onTestFinished(() => service.stop());
    const emitted: string[] = [];
    await service.createSocketBridge({
      to: (room) => ({
        emit: (name: string, event: { connId: string }) =>
          void emitted.push(`${room} ${name} ${event.connId}`),
      }),
    });
    await replace(pair, 'ends the connection for calls');
    const join = joins(await connect({ url: pair.after.url }));
    await eventually(async () => {
      const connId = await join();
      const line = `r presence:event ${connId}`;
      await eventually(() => expect(emitted).toContain(line), { timeoutMs: 200 });
    }, WITHIN);
  });
});
