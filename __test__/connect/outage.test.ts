// Outages of Redis: calls fail in time with the known outcome, everything recovers by itself, and
// `resync` is emitted for missed events (spec 4.4, 12).
import { describe, expect, test } from 'vitest';
import { everythingIn, keepLog, openClient, rejection } from '../support/clients.js';
import { startCluster, UNHURRIED_MS } from '../support/cluster.js';
import { startProxy } from '../support/proxy.js';
import { startRedis } from '../support/redis.js';
import { eventually, startClock, within } from '../support/wait.js';

const COMMAND_TIMEOUT_MS = 800;
const limits = { commandTimeoutMs: COMMAND_TIMEOUT_MS };
/** Tolerance for a busy machine, in addition to the option. */
const GRACE_MS = 1500;
const IDS = { roomId: 'r', userId: 'u', connId: 'c' };

describe('12: Redis is down', () => {
  test('calls fail with UNAVAILABLE within the command timeout, and succeed again', async () => {
    const secret = 'hush-hush-4711';
    await using server = await startRedis({ requirepass: secret });
    const logger = keepLog();
    const client = await openClient({ url: server.url, limits, logger });
    const states: string[] = [];
    const errors: Error[] = [];
    client.on('state', ({ state }) => void states.push(state));
    client.on('error', (error) => void errors.push(error));
    await client.join(IDS);
    await server.kill();
    await eventually(() => expect(states).toEqual(['disconnected']));

    const calls: Record<string, () => Promise<unknown>> = {
      join: () => client.join(IDS),
      heartbeat: () => client.heartbeat({ connId: 'c' }),
      patch: () => client.heartbeat({ connId: 'c', patchState: { a: 1 } }),
      leave: () => client.leave('c'),
      fetchRoomSnapshot: () => client.fetchRoomSnapshot('r'),
      getUserPresence: () => client.getUserPresence('u'),
      subscribe: () => client.subscribe(() => {}),
      reapOnce: () => client.reapOnce(),
    };
    await Promise.all(
      Object.entries(calls).map(async ([name, call]) => {
        const clock = startClock();
        const error = await rejection(call);
        const took = clock.ms;
        expect(error.code, name).toBe('UNAVAILABLE');
        // Nothing was sent, so nothing can have been applied.
        expect(error, name).not.toHaveProperty('outcome');
        expect(took, name).toBeLessThan(COMMAND_TIMEOUT_MS + GRACE_MS);
        expect(everythingIn(error)).not.toContain(secret);
      }),
    );

    await server.start();
    await eventually(() => expect(states).toEqual(['disconnected', 'connected']));
    await works();
    expect(errors.map((error) => 'code' in error && error.code)).toEqual(['UNAVAILABLE']);
    expect(logger.lines.join('\n')).toContain('Redis is away');
    expect(`${logger.lines} ${errors.map(everythingIn)}`).not.toContain(secret);
    expect(client.metrics().disconnects).toBe(1);

    async function works() {
      await client.join(IDS);
      // The restarted server has also lost the scripts.
      await client.heartbeat({ connId: 'c' });
      expect(await client.fetchRoomSnapshot('r')).toHaveLength(1);
      expect(await client.leave('c')).toEqual({ roomId: 'r', userId: 'u' });
      expect(await server.dbsize()).toBe(0);
    }
  });

  test('a call that is made while Redis restarts waits for it', async () => {
    await using server = await startRedis();
    const client = await openClient(server.url);
    await client.join(IDS);
    const states: string[] = [];
    client.on('state', ({ state }) => void states.push(state));
    await server.stop();
    // Until the client notices the loss, it may send a call, whose outcome is then unknown.
    await eventually(() => expect(states).toEqual(['disconnected']));
    const joining = client.join(IDS);
    await server.start();
    expect((await joining).snapshot).toHaveLength(1);
  });

  test('a call that was sent and not answered has outcome "unknown"; reads are sent again', async () => {
    await using server = await startRedis();
    await using proxy = await startProxy(server.port);
    const client = await openClient({ url: proxy.url, limits: { commandTimeoutMs: 5000 } });
    await client.join(IDS);
    let sent = '';
    proxy.watch = (piece) => {
      sent += piece.toString('latin1');
      return piece;
    };
    server.pause();
    const calls = [
      client.join({ ...IDS, connId: 'd' }).catch((error) => error),
      client.leave('c').catch((error) => error),
      client.heartbeat({ connId: 'c', patchState: { a: 1 } }).catch((error) => error),
    ];
    const read = client.fetchRoomSnapshot('r');
    // In flight: the kernel has accepted it, but the server never will.
    await eventually(() => {
      for (const part of ['$10\r\nprs:conn:d\r\n', '$4\r\nleft\r\n', '{"a":1}']) {
        expect(sent).toContain(part);
      }
    });
    await server.kill();
    for (const error of await within(Promise.all(calls), 4000, 'the calls')) {
      expect([error.code, error.outcome]).toEqual(['UNAVAILABLE', 'unknown']);
    }
    await server.start();
    expect(await read).toEqual([]);
  });

  test('a Redis that is loading its data, read-only or out of memory: UNAVAILABLE', async () => {
    await using master = await startRedis();
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits });
    const admin = await server.client();
    await admin.config('SET', 'maxmemory', '1');
    const full = await rejection(() => client.join(IDS));
    expect([full.code, full.message]).toEqual(['UNAVAILABLE', expect.stringContaining('memory')]);
    expect(full).not.toHaveProperty('outcome');
    expect(await server.dbsize()).toBe(0);
    await admin.config('SET', 'maxmemory', '0');
    await client.join(IDS);
    await admin.replicaof(master.host, master.port);
    const readOnly = await rejection(() => client.join(IDS));
    expect(readOnly.code).toBe('UNAVAILABLE');
    expect(readOnly).not.toHaveProperty('outcome');
    await admin.replicaof('NO', 'ONE');
    await eventually(() => client.join(IDS));
    await client.leave('c');
  });
});

describe('25: an outage is logged once, and its end once', () => {
  const reaping = { sweepIntervalMs: 50, ttlMs: 10_000 };

  test('for any number of connections, with a reaper and waiters', async () => {
    await using server = await startRedis();
    const logger = keepLog();
    const client = await openClient({ url: server.url, limits, logger, ...reaping });
    await client.subscribe(() => {});
    await client.startReaper();
    await (await client.locks.acquire('l', { ownerId: 'u', waitMs: 100 })).release();
    const states: string[] = [];
    client.on('state', ({ state }) => void states.push(state));
    const gaps: string[] = [];
    client.on('resync', ({ reason }) => void gaps.push(reason));
    for (const outage of [1, 2]) {
      logger.lines.length = 0;
      await server.kill();
      // Long enough for all connections to fail, and for calls to time out.
      expect((await rejection(() => client.fetchRoomSnapshot('r'))).code).toBe('UNAVAILABLE');
      await server.start();
      await eventually(() => expect(gaps).toHaveLength(outage));
      await eventually(() => expect(logger.lines).toHaveLength(2));
      expect(logger.lines).toEqual([
        expect.stringMatching(/^warn Redis is away: .*cannot be reached/),
        expect.stringMatching(/^info Redis is back: /),
      ]);
    }
    expect(states).toEqual(['disconnected', 'connected', 'disconnected', 'connected']);
  });

  test('on a cluster', async () => {
    await using cluster = await startCluster({ replicas: 0, nodeTimeoutMs: UNHURRIED_MS });
    const logger = keepLog();
    const client = await openClient({ url: cluster.url, logger, ...reaping });
    await client.subscribe(() => {});
    await client.startReaper();
    const states: string[] = [];
    client.on('state', ({ state }) => void states.push(state));
    const [first, second] = cluster.servers;
    await Promise.all([first?.kill(), second?.kill()]);
    await eventually(() => expect(states).toEqual(['disconnected']));
    const error = await rejection(async () => {
      for (let i = 0; i < 30; i++) await client.fetchRoomSnapshot(`r${i}`);
    });
    expect(error.code).toBe('UNAVAILABLE');
    await Promise.all([first?.start(), second?.start()]);
    await eventually(() => expect(states).toEqual(['disconnected', 'connected']), {
      timeoutMs: 20_000,
    });
    await eventually(() => expect(logger.lines.length).toBeGreaterThan(1));
    // A copy, because the cluster ends before the client is closed.
    expect([...logger.lines]).toEqual([
      expect.stringMatching(/^warn Redis is away: /),
      expect.stringMatching(/^info Redis is back: /),
    ]);
  });
});

describe('4.4: the subscription’s connection is lost and restored', () => {
  test('all subscriptions are restored, and `resync` is emitted once per gap', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits });
    const other = await openClient({ url: server.url, limits });
    const received: Record<string, string[]> = { all: [], r: [], s: [], gone: [] };
    await client.subscribe((event) => void received.all?.push(`${event.type} ${event.connId}`));
    for (const roomId of ['r', 's', 'gone']) {
      const keep = ({ type, connId }: { type: string; connId: string }) =>
        void received[roomId]?.push(`${type} ${connId}`);
      const stop = await client.subscribe(keep, { roomId });
      if (roomId === 'gone') await stop();
    }
    const gaps: string[] = [];
    client.on('resync', ({ reason }) => void gaps.push(reason));
    for (const gap of [1, 2]) {
      await server.restart();
      await eventually(() => expect(gaps).toEqual(Array(gap).fill('reconnected')));
      // After `resync` no event is missed.
      await eventually(() => other.join({ roomId: 'r', userId: 'u', connId: `r${gap}` }));
      await other.join({ roomId: 's', userId: 'u', connId: `s${gap}` });
      await other.join({ roomId: 'gone', userId: 'u', connId: `gone${gap}` });
      await eventually(() => {
        expect(received.r).toContain(`join r${gap}`);
        expect(received.s).toContain(`join s${gap}`);
        expect(received.all).toContain(`join gone${gap}`);
      });
    }
    expect(received.gone).toEqual([]);
    expect(received.r).toEqual(['join r1', 'join r2']);
    expect(gaps).toHaveLength(2);
    expect(client.metrics().resyncs).toBe(2);
  });

  test('a half-open connection is noticed', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits });
    await client.subscribe(() => {});
    const states: string[] = [];
    const gaps: string[] = [];
    client.on('state', ({ state }) => void states.push(state));
    client.on('resync', ({ reason }) => void gaps.push(reason));
    server.pause();
    await eventually(() => expect(states).toEqual(['disconnected']), { timeoutMs: 8000 });
    server.resume();
    await eventually(() => expect([...states, ...gaps]).toContain('connected'));
    await eventually(() => expect(gaps).toEqual(['reconnected']), { timeoutMs: 8000 });
  });

  test('a server that closes the client’s connections (CLIENT KILL)', async () => {
    await using server = await startRedis();
    const client = await openClient({ url: server.url, limits });
    const received: string[] = [];
    const gaps: string[] = [];
    await client.subscribe((event) => void received.push(event.connId), { roomId: 'r' });
    client.on('resync', ({ reason }) => void gaps.push(reason));
    const admin = await server.client();
    await admin.call('CLIENT', 'KILL', 'USER', 'default');
    await eventually(() => expect(gaps).toEqual(['reconnected']));
    await client.join(IDS);
    await eventually(() => expect(received).toEqual(['c']));
  });
});
