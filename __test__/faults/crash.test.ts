// Redis crashes. Data that were acknowledged and written to disk are still there, and clients
// detect lost data.
import { describe, expect } from 'vitest';
import { rejection } from '../support/clients.js';
import { eventually, slowness } from '../support/wait.js';
import { contend, writeChannels } from './claims.js';
import { spread } from './figures.js';
import { Ledger } from './ledger.js';
import { count, proven } from './proven.js';
import { startWorld } from './world.js';

const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };
/**
 * The promise is two seconds from the server's return; the rest is tolerance for a busy machine.
 */
const CONVERGED_MS = 2000;
const GRACE_MS = 1000;

describe('1: kill -9 under load, and a restart', () => {
  const kills = count(3, 20);
  proven(
    `with appendfsync always, ${kills} times: no acknowledged change is missing`,
    { without: 'disk', fails: /lost|deeply equal|greater/, timeoutMs: 120_000 },
    async (off) => {
      const world = await startWorld({
        client: { limits },
        server: { appendonly: !off.includes('disk') },
      });
      // These continue through every crash; the calls on rooms stop with it, so that views can be
      // compared.
      const claims = new Ledger('LOCK_UNAVAILABLE', 'LOCK_LOST');
      const channels = await writeChannels(world.nodes, claims);
      const locks = contend(world.nodes, claims, world.random);
      const took: number[] = [];
      for (let kill = 0; kill < kills; kill++) {
        const load = world.load();
        const done = world.ledger.ended('done');
        await eventually(() => world.ledger.ended('done') > done + 200, { timeoutMs: 10_000 });
        await world.server.kill();
        const ended = load.stop();
        await world.server.start();
        const returned = performance.now();
        const written = claims.ended('done');
        await world.listenAgain();
        await ended;
        await eventually(() => claims.ended('done') > written);
        // Events between the server's return and the test's own subscription are not counted.
        await world.converged({ withinMs: CONVERGED_MS, missing: Number.POSITIVE_INFINITY });
        took.push(performance.now() - returned);
        expect(took.at(-1), 'ms to converge').toBeLessThan((CONVERGED_MS + GRACE_MS) * slowness());
      }
      await Promise.all([channels.stop(), locks.stop()]);
      console.log(
        `kill -9: converged ${spread(took)}; ${world.ledger.summary()}; ` +
          `${claims.summary()}; ${locks.summary()}; ${channels.summary()}`,
      );
      await channels.check(world.healthy);
      await locks.check(world.healthy);
      claims.check();
      expect(locks.grants).toBeGreaterThan(10);
      await locks.clear(world.healthy);
      await world.emptied({ channels: true });
    },
  );
});

describe('1: kill -9, and a restart without data', () => {
  proven('emits resync, and views are empty', { without: 'gaps' }, async () => {
    const world = await startWorld({ client: { limits } });
    const load = world.load();
    await eventually(() => world.ledger.ended('done') > 200);
    await load.stop();
    await world.converged();
    await world.server.kill();
    await world.server.start();
    const returned = performance.now();
    await world.listenAgain();
    await eventually(
      () => {
        for (const view of world.views) expect(view.resyncs).toBe(1);
      },
      { timeoutMs: CONVERGED_MS + GRACE_MS },
    );
    console.log(`empty: resync after ${Math.round(performance.now() - returned)} ms`);
    await world.converged({ missing: Number.POSITIVE_INFINITY });
    for (const view of world.views) expect(view.describe()).toEqual([]);
  });

  proven(
    'heartbeats fail with CONNECTION_NOT_FOUND, and clients join again',
    { without: 'not-found' },
    async () => {
      const world = await startWorld({ client: { limits } });
      const node = world.node();
      const ids = Array.from({ length: 20 }, (_, i) => ({
        roomId: `r${i % 4}`,
        userId: `u${i}`,
        connId: `c${i}`,
      }));
      const epochs = new Map<string, number>();
      for (const id of ids) epochs.set(id.connId, (await node.join(id)).epoch);
      await world.server.kill();
      await world.server.start();
      await world.listenAgain();
      await eventually(() => node.fetchRoomSnapshot('r0'));
      const results = await node.heartbeatMany(ids.map(({ connId }) => ({ connId })));
      expect(results.map((result) => (result as { code?: string }).code)).toEqual(
        ids.map(() => 'CONNECTION_NOT_FOUND'),
      );
      for (const id of ids) {
        const { epoch } = await node.join(id);
        // Epochs follow the clock: a server without its data does not assign them again.
        expect(epoch).toBeGreaterThan(epochs.get(id.connId) ?? 0);
      }
      await world.converged({ missing: Number.POSITIVE_INFINITY });
      await world.emptied();
    },
  );

  proven('a reset of revisions and fencing tokens is detected', { without: 'gaps' }, async () => {
    const world = await startWorld({ nodes: 1, client: { limits } });
    const node = world.node();
    const channel = { channelType: 't', channelName: 'n' };
    const data = [{ key: 'k', value: 'v' }];
    for (let i = 0; i < 5; i++) await node.metadata.set({ ...channel, data });
    const { majorRevision } = await node.metadata.get(channel);
    const lock = await node.locks.acquire('l', { ownerId: 'o', ttlMs: 2000 });
    const reasons: string[] = [];
    node.on('resync', ({ reason }) => void reasons.push(reason));
    await world.server.kill();
    await world.server.start();
    await world.listenAgain();
    // A call with a revision check is refused, and for the others `resync` has been emitted.
    const options = { majorRevision };
    const error = await rejection(() =>
      eventually(() => node.metadata.set({ ...channel, data, options }), { timeoutMs: 100 }),
    );
    expect(error.code).toBe('METADATA_CONFLICT');
    await eventually(() => expect(reasons).toEqual(['reconnected']));
    // The holder is notified of the loss, and the next grant has a higher token.
    await eventually(() => expect(lock.lost.aborted).toBe(true), { timeoutMs: 3000 });
    const next = await world.healthy.locks.acquire('l', { ownerId: 'p', waitMs: 3000 });
    expect(next.fencingToken).toBeGreaterThan(lock.fencingToken);
    await next.release();
  });
});
