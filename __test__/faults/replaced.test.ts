// One endpoint behind which the server is replaced: a proxy, or a DNS name, leads elsewhere, while
// connections to the old server may stay open. Whatever makes one link of a client move makes the
// others look.
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

/** Two servers, and what leads to the first. */
async function startPair(): Promise<Pair> {
  const [before, after] = await Promise.all([startRedis(), startRedis()]);
  onTestFinished(() => before[Symbol.asyncDispose]());
  onTestFinished(() => after[Symbol.asyncDispose]());
  const proxy = await startProxy(before.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  return { proxy, before, after };
}

/** New connections lead to the other server; `ways`: what happens to the old one. */
const WAYS = {
  'becomes read-only': async ({ before }: Pair) => {
    await (await before.client()).replicaof('127.0.0.1', 1);
  },
  'ends the connection for calls': ({ before }: Pair) => endConnections(before, 'normal'),
  'ends that for subscriptions': ({ before }: Pair) => endConnections(before, 'pubsub'),
  'ends both': async ({ proxy }: Pair) => proxy.cut(),
};

/** Of clients of one kind; none of the server itself. */
async function endConnections(server: RedisServer, type: 'normal' | 'pubsub'): Promise<void> {
  const admin = await server.client();
  await admin.call('CLIENT', 'KILL', 'TYPE', type, 'USER', 'default');
}

async function replace(pair: Pair, way: keyof typeof WAYS): Promise<void> {
  pair.proxy.retarget(pair.after);
  await WAYS[way](pair);
}

/** Joins a connection through a client of its own on the new server, again and again. */
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
    // Ended at once, both find the new one by themselves; only resubscribing is shown then.
    const without = way === 'ends both' ? 'reconnect' : 'replaced';
    proven(
      `the old one ${way}: calls and events follow, with one resync`,
      { without },
      async () => {
        const pair = await startPair();
        const client = await connect({ url: pair.proxy.url, limits });
        const heard: string[] = [];
        const gaps: string[] = [];
        await client.subscribe(({ connId }) => void heard.push(`all ${connId}`));
        await client.subscribe(({ connId }) => void heard.push(`room ${connId}`), { roomId: 'r' });
        client.on('resync', ({ reason }) => void gaps.push(reason));
        await replace(pair, way);
        const join = joins(await connect({ url: pair.after.url }));
        // No call is made by the client itself.
        await eventually(async () => {
          const connId = await join();
          await eventually(
            () => {
              expect(heard).toContain(`all ${connId}`);
              expect(heard).toContain(`room ${connId}`);
            },
            { timeoutMs: 200 },
          );
        }, WITHIN);
        await eventually(() => expect(gaps).toEqual(['reconnected']), WITHIN);
        await client.join({ roomId: 'r', userId: 'u', connId: 'own', snapshot: false });
        const there = await (await connect({ url: pair.after.url })).fetchRoomSnapshot('r');
        expect(there.map(({ connId }) => connId)).toContain('own');
        // Later moves would show: each has its own resync.
        await eventually(() => expect(heard).toContain('room own'), WITHIN);
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
    // It listens from its first lock on.
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

  proven('the socket bridge of the swap-in surface follows', { without: 'replaced' }, async () => {
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
