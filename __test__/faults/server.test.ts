// Servers that lose scripts, are busy, load data, pause writes, or are demoted.
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { describe, expect } from 'vitest';
import { rejection } from '../support/clients.js';
import { startRedis } from '../support/redis.js';
import { eventually, startClock } from '../support/wait.js';
import { count, proven } from './proven.js';
import { connect, startWorld, type World } from './world.js';

const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };

/** Calls of every node succeed again. */
async function works(world: World): Promise<void> {
  const done = world.ledger.ended('done');
  await eventually(() => world.ledger.ended('done') > done + 100, { timeoutMs: 10_000 });
}

/** Sends a raw command and returns the first reply. */
async function askByTcp(port: number, command: string): Promise<string> {
  const socket = createConnection(port, '127.0.0.1');
  try {
    socket.write(`${command}\r\n`);
    const [answer] = await once(socket, 'data');
    return String(answer);
  } finally {
    socket.destroy();
  }
}

describe('4: a server in trouble', () => {
  proven('SCRIPT FLUSH in a loop: no call fails', { without: 'no-script' }, async () => {
    // No call may fail; each is sent again while scripts are missing.
    const world = await startWorld({ client: { limits: { commandTimeoutMs: 20_000 } } });
    const load = world.load({ pauseMs: 0 });
    const flushes = count(500, 5000);
    for (let i = 0; i < flushes; i++) await world.redis.script('FLUSH');
    await load.stop();
    console.log(`SCRIPT FLUSH: ${world.ledger.summary()}`);
    expect(world.ledger.trouble()).toBe(0);
    expect(world.ledger.ended('done')).toBeGreaterThan(100);
    await world.converged();
    await world.emptied();
  });

  proven('BUSY with a script of another client', { without: 'server-words' }, async () => {
    const world = await startWorld({
      client: { limits },
      server: { config: { 'lua-time-limit': 50 } },
    });
    const load = world.load();
    await works(world);
    const hog = await world.server.client();
    const ended = hog.eval('while true do end', 0).catch((error: Error) => error.message);
    await new Promise((resolve) => setTimeout(resolve, 800));
    await world.redis.script('KILL');
    expect(await ended).toContain('killed');
    await works(world);
    await load.stop();
    console.log(`BUSY: ${world.ledger.summary()}`);
    // A busy server has not applied the calls that it refused.
    expect(world.ledger.codes.get('UNAVAILABLE') ?? 0).toBeGreaterThan(0);
    await world.converged();
    await world.emptied();
  });

  proven('LOADING', { without: 'server-words' }, async () => {
    const world = await startWorld({
      client: { limits: { ...limits, connectTimeoutMs: 5000 } },
      server: { appendonly: true, config: { 'key-load-delay': 200 } },
    });
    const { healthy, server, proxy } = world;
    for (let i = 0; i < 500; i++) {
      await healthy.join({ roomId: 'r1', userId: `u${i % 9}`, connId: `h${i}`, snapshot: false });
    }
    const load = world.load();
    await works(world);
    await server.kill();
    const loaded = server.start();
    loaded.catch(() => {});
    // It handles its connections from time to time while it loads.
    await eventually(async () => {
      expect(await askByTcp(server.port, 'PING')).toContain('LOADING');
    });
    // A new client waits until loading is finished, without an error.
    const late = await connect({ url: proxy.url });
    await late.join({ roomId: 'r0', userId: 'u', connId: 'late' });
    await loaded;
    await world.listenAgain();
    await works(world);
    await load.stop();
    console.log(`LOADING: ${world.ledger.summary()}`);
    await world.converged({ missing: Number.POSITIVE_INFINITY });
    expect(await healthy.fetchRoomSnapshot('r1')).toSatisfy(
      (there: unknown[]) => there.length >= 500,
    );
    await world.emptied();
  });

  proven('CLIENT PAUSE WRITE: calls fail in time', { without: 'deadlines' }, async () => {
    const world = await startWorld({ client: { limits } });
    const load = world.load();
    await works(world);
    await world.redis.call('CLIENT', 'PAUSE', '2500', 'WRITE');
    const node = world.node();
    const clock = startClock();
    const error = await rejection(async () => {
      await node.join({ roomId: 'r0', userId: 'u', connId: 'paused', state: { mark: 'paused' } });
    });
    expect(clock.ms).toBeLessThan(limits.commandTimeoutMs + 700);
    expect([error.code, error.outcome]).toEqual(['TIMEOUT', 'unknown']);
    await world.redis.call('CLIENT', 'UNPAUSE');
    await works(world);
    await load.stop();
    console.log(`CLIENT PAUSE WRITE: ${world.ledger.summary()}`);
    await world.converged();
    await world.emptied();
  });

  proven(
    'READONLY after a demotion: the client looks up the master again',
    // Without the defence, calls fail until a check of the server's role finds the replica.
    { without: 'read-only', fails: /false|greater|to be [+\d]/ },
    async () => {
      const world = await startWorld({
        // Longer than writes are paused before the demotion, even on a busy machine.
        client: { limits: { ...limits, commandTimeoutMs: 5000 } },
        server: { config: { 'repl-diskless-sync-delay': 0 } },
      });
      await using second = await startRedis();
      const { proxy, server, redis } = world;
      const heir = await second.client();
      await heir.replicaof(server.host, server.port);
      await eventually(async () =>
        expect(await heir.info('replication')).toContain('link_status:up'),
      );
      const load = world.load();
      await works(world);
      // Like an address that moves to another machine: open connections stay with the old one.
      proxy.retarget(second);
      await redis.call('CLIENT', 'PAUSE', '5000', 'WRITE');
      await eventually(async () => {
        const of = async (client: typeof redis) =>
          /master_repl_offset:(\d+)/.exec(await client.info('replication'))?.[1];
        expect(await of(heir)).toBe(await of(redis));
      });
      await heir.replicaof('NO', 'ONE');
      await redis.replicaof(second.host, second.port);
      await redis.call('CLIENT', 'UNPAUSE');
      const failed = world.ledger.trouble();
      const { changes } = world.ledger;
      await eventually(() => world.ledger.changes > changes + 100, { timeoutMs: 5000 });
      await load.stop();
      // A write that a replica refuses is sent to the new master, without an error.
      expect(world.ledger.trouble()).toBe(failed);
      console.log(
        `READONLY: ${world.ledger.summary()}, ${world.ledger.trouble() - failed} after it`,
      );
      await world.moveTo(second);
      await world.converged({ missing: Number.POSITIVE_INFINITY });
      await world.emptied();
    },
  );
});
