// The order of the events for a lost connection, its recovery, and missed events: `resync` comes
// last, when calls work.
import { PresenceService } from 'rollcall';
import { describe, expect, onTestFinished, test } from 'vitest';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { startProxy } from '../support/proxy.js';
import { startRedis } from '../support/redis.js';
import { startSentinels } from '../support/sentinel.js';
import { eventually } from '../support/wait.js';
import { proven } from './proven.js';
import { type Client, connect } from './world.js';

const limits = { commandTimeoutMs: 2_000, connectTimeoutMs: 1_000 };
const WITHIN = { timeoutMs: 15_000 };
const IN_ORDER = ['disconnected', 'connected', 'resync', 'a call works'];

/** Records the client's events, and whether calls work when `resync` is emitted. */
function follow(client: Client): string[] {
  const order: string[] = [];
  client.on('state', ({ state }) => void order.push(state));
  client.on('resync', async () => {
    order.push('resync');
    await client.fetchRoomSnapshot('r').then(
      () => order.push('a call works'),
      (error) => order.push(`a call fails: ${error.code}`),
    );
  });
  return order;
}

/** A server behind a proxy; clients and the test use different connections. */
async function behindProxy() {
  const server = await startRedis();
  onTestFinished(() => server[Symbol.asyncDispose]());
  const proxy = await startProxy(server.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  return { server, proxy };
}

describe('26: `state: connected` comes before `resync`', () => {
  proven(
    'a dead connection for calls is not detected first',
    { without: 'gaps-last' },
    async () => {
      const { server, proxy } = await behindProxy();
      const client = await connect({ url: proxy.url, limits });
      await client.subscribe(() => {});
      const order = follow(client);
      // The blackhole affects only the connection of this call.
      proxy.blackhole(true);
      const call = client.heartbeat({ connId: 'c' }).catch(() => {});
      await eventually(() => proxy.swallowed > 0);
      proxy.blackhole(false);
      const admin = await server.client();
      await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
      await eventually(() => expect(order.slice(0, 4)).toEqual(IN_ORDER), WITHIN);
      await call;
      expect(client.metrics().resyncs).toBe(1);
    },
  );

  test('after restarts of one Redis', { timeout: 60_000 }, async () => {
    const server = await startRedis();
    onTestFinished(() => server[Symbol.asyncDispose]());
    const client = await connect({ url: server.url, limits });
    await client.subscribe(() => {});
    const order = follow(client);
    for (let i = 0; i < 10; i++) {
      order.length = 0;
      await (i % 2 === 0 ? server.kill() : server.stop());
      await server.start();
      await eventually(() => expect(order).toEqual(IN_ORDER), WITHIN);
    }
  });

  test('when its server closes both connections', async () => {
    const { proxy } = await behindProxy();
    const client = await connect({ url: proxy.url, limits });
    await client.subscribe(() => {});
    const order = follow(client);
    for (let i = 0; i < 20; i++) {
      order.length = 0;
      proxy.cut();
      await eventually(() => expect(order).toEqual(IN_ORDER), WITHIN);
    }
  });

  test('after a failover by Sentinel', { timeout: 90_000 }, async () => {
    await using group = await startSentinels({ servers: 2 });
    const client = await connect({ url: group.url, limits });
    await client.subscribe(() => {});
    const order = follow(client);
    await group.ready();
    await (await group.master()).kill();
    await eventually(() => expect(order).toEqual(IN_ORDER), { timeoutMs: 40_000 });
  });

  test('on a cluster, after a master was down', { timeout: 90_000 }, async () => {
    const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
    onTestFinished(() => cluster[Symbol.asyncDispose]());
    const client = await connect({ url: cluster.url, limits });
    await client.subscribe(() => {}, { roomId: 'r' });
    const order = follow(client);
    const owner = await cluster.ownerOf('prs:{room:r}:events');
    for (let i = 0; i < 3; i++) {
      order.length = 0;
      await owner.kill();
      await eventually(() => expect(order).toEqual(['disconnected']), WITHIN);
      await owner.start();
      await eventually(() => expect(order).toEqual(IN_ORDER), WITHIN);
      await cluster.settled();
    }
  });

  test('in the legacy interface, with a socket bridge', async () => {
    const { server, proxy } = await behindProxy();
    const options = { ttlMs: 60_000, reaperIntervalMs: 1_000, reaperLookbackMs: 60_000 };
    const service = new PresenceService(proxy.url, { ...options, logger: {} });
    onTestFinished(() => service.stop());
    const emitted: string[] = [];
    await service.createSocketBridge({
      to: () => ({
        emit: (_: string, event: { connId: string }) => void emitted.push(event.connId),
      }),
    });
    const order = follow(await service.client());
    for (let i = 0; i < 5; i++) {
      order.length = 0;
      proxy.cut();
      await eventually(() => expect(order).toEqual(IN_ORDER), WITHIN);
      // After `resync` no event is missed.
      const other = await connect({ url: server.url });
      await other.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false });
      await eventually(() => expect(emitted).toContain(`c${i}`));
    }
  });

  test('after an overflow there is no change of state, and `resync` is emitted at once', async () => {
    const { server } = await behindProxy();
    const client = await connect({ url: server.url, limits: { ...limits, maxEventQueue: 10 } });
    const other = await connect({ url: server.url });
    await client.subscribe(() => {});
    const order = follow(client);
    client.on('resync', ({ reason }) => void order.push(reason));
    const joins = Array.from({ length: 2_000 }, (_, i) =>
      other.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false }),
    );
    // The event loop is blocked while events arrive.
    const until = performance.now() + 500;
    while (performance.now() < until);
    await Promise.all(joins);
    await eventually(() => expect(order).toContain('a call works'), WITHIN);
    expect(order).toContain('overflow');
    expect(order).not.toContain('connected');
    expect(order).not.toContain('disconnected');
  });
});
