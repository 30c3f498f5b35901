// In which order a client tells that its connection is lost, that it is back, and that events may have been
// missed: `resync` comes last, when calls work.
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

/** What the client tells, and whether calls work when it tells `resync`. */
function follow(client: Client): string[] {
  const told: string[] = [];
  client.on('state', ({ state }) => void told.push(state));
  client.on('resync', async () => {
    told.push('resync');
    await client.fetchRoomSnapshot('r').then(
      () => told.push('a call works'),
      (error) => told.push(`a call fails: ${error.code}`),
    );
  });
  return told;
}

/** A server behind a proxy; clients' users are apart from who looks at it. */
async function behindProxy() {
  const server = await startRedis();
  onTestFinished(() => server[Symbol.asyncDispose]());
  const proxy = await startProxy(server.port);
  onTestFinished(() => proxy[Symbol.asyncDispose]());
  return { server, proxy };
}

describe('26: `state: connected` comes before `resync`', () => {
  proven('a dead connection for calls is not noticed first', { without: 'gaps-last' }, async () => {
    const { server, proxy } = await behindProxy();
    const client = await connect({ url: proxy.url, limits });
    await client.subscribe(() => {});
    const told = follow(client);
    // What swallows this call swallows all of its connection, and only of that.
    proxy.blackhole(true);
    const call = client.heartbeat({ connId: 'c' }).catch(() => {});
    await eventually(() => proxy.swallowed > 0);
    proxy.blackhole(false);
    const admin = await server.client();
    await admin.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await eventually(() => expect(told.slice(0, 4)).toEqual(IN_ORDER), WITHIN);
    await call;
    expect(client.metrics().resyncs).toBe(1);
  });

  test('after restarts of one Redis', { timeout: 60_000 }, async () => {
    const server = await startRedis();
    onTestFinished(() => server[Symbol.asyncDispose]());
    const client = await connect({ url: server.url, limits });
    await client.subscribe(() => {});
    const told = follow(client);
    for (let i = 0; i < 10; i++) {
      told.length = 0;
      await (i % 2 === 0 ? server.kill() : server.stop());
      await server.start();
      await eventually(() => expect(told).toEqual(IN_ORDER), WITHIN);
    }
  });

  test('when its server ends both connections', async () => {
    const { proxy } = await behindProxy();
    const client = await connect({ url: proxy.url, limits });
    await client.subscribe(() => {});
    const told = follow(client);
    for (let i = 0; i < 20; i++) {
      told.length = 0;
      proxy.cut();
      await eventually(() => expect(told).toEqual(IN_ORDER), WITHIN);
    }
  });

  test('after a failover by Sentinel', { timeout: 90_000 }, async () => {
    await using group = await startSentinels({ servers: 2 });
    const client = await connect({ url: group.url, limits });
    await client.subscribe(() => {});
    const told = follow(client);
    await group.ready();
    await (await group.master()).kill();
    await eventually(() => expect(told).toEqual(IN_ORDER), { timeoutMs: 40_000 });
  });

  test('on a cluster, after a master was away', { timeout: 90_000 }, async () => {
    const cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
    onTestFinished(() => cluster[Symbol.asyncDispose]());
    const client = await connect({ url: cluster.url, limits });
    await client.subscribe(() => {}, { roomId: 'r' });
    const told = follow(client);
    const owner = await cluster.ownerOf('prs:{room:r}:events');
    for (let i = 0; i < 3; i++) {
      told.length = 0;
      await owner.kill();
      await eventually(() => expect(told).toEqual(['disconnected']), WITHIN);
      await owner.start();
      await eventually(() => expect(told).toEqual(IN_ORDER), WITHIN);
      await cluster.settled();
    }
  });

  test('in the swap-in surface, with a socket bridge', async () => {
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
    const told = follow(await service.client());
    for (let i = 0; i < 5; i++) {
      told.length = 0;
      proxy.cut();
      await eventually(() => expect(told).toEqual(IN_ORDER), WITHIN);
      // From `resync` on nothing is missed.
      const other = await connect({ url: server.url });
      await other.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false });
      await eventually(() => expect(emitted).toContain(`c${i}`));
    }
  });

  test('after an overflow there is no change of state, and `resync` comes at once', async () => {
    const { server } = await behindProxy();
    const client = await connect({ url: server.url, limits: { ...limits, maxEventQueue: 10 } });
    const other = await connect({ url: server.url });
    await client.subscribe(() => {});
    const told = follow(client);
    client.on('resync', ({ reason }) => void told.push(reason));
    const joins = Array.from({ length: 2_000 }, (_, i) =>
      other.join({ roomId: 'r', userId: 'u', connId: `c${i}`, snapshot: false }),
    );
    // The event loop is blocked while events come in.
    const until = performance.now() + 500;
    while (performance.now() < until);
    await Promise.all(joins);
    await eventually(() => expect(told).toContain('a call works'), WITHIN);
    expect(told).toContain('overflow');
    expect(told).not.toContain('connected');
    expect(told).not.toContain('disconnected');
  });
});
