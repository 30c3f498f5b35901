// Consecutive Sentinel failovers, by kill, by SIGSTOP and by command. Clients recover within the
// detection time plus 5 s. Redis replicates asynchronously, so acknowledged writes can be lost: the
// test counts and prints them.
import { describe, expect, onTestFinished } from 'vitest';
import { createRandom } from '../support/random.js';
import { startSentinels } from '../support/sentinel.js';
import { eventually } from '../support/wait.js';
import { writeChannels } from './claims.js';
import { spread } from './figures.js';
import { Ledger } from './ledger.js';
import { count, LONG, proven } from './proven.js';
import { type Client, connect } from './world.js';

const RECOVERY_MS = 5000;

describe('5: Sentinel failover', () => {
  const failovers = count(3, 20);
  proven(
    `${failovers} in a row`,
    {
      without: 'moved',
      timeoutMs: LONG ? 900_000 : 110_000,
    },
    async () => {
      await using group = await startSentinels({ servers: 2 });
      const ledger = new Ledger('METADATA_INVALID');
      const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };
      const nodes: Client[] = [];
      for (let i = 0; i < 2; i++) nodes.push(await connect({ url: group.url, limits }));
      const resyncs: string[] = [];
      nodes[0]?.on('resync', ({ reason }) => void resyncs.push(reason));
      await nodes[0]?.subscribe(() => {});
      const channels = await writeChannels(nodes, ledger);
      onTestFinished(() => channels.stop());
      const random = createRandom(5);
      const ways = random.shuffle(['kill', 'stop', 'command'] as const);
      const took = new Map<string, number[]>(ways.map((way) => [way, []]));
      /** By kind of failover, the acknowledged changes that the new master does not have. */
      const gone = new Map<string, number>();
      let lost = 0;
      for (let i = 0; i < failovers; i++) {
        const way = ways[i % ways.length] ?? 'kill';
        const old = await group.master();
        const done = ledger.ended('done');
        const earlier = resyncs.length;
        await eventually(() => ledger.ended('done') > done + 50);
        // The other server must be known as a good replica, or no server can take over.
        await group.ready();
        if (way === 'kill') await old.kill();
        else if (way === 'stop') old.pause();
        else await group.failover();
        await eventually(async () => expect(await group.master()).not.toBe(old), {
          timeoutMs: 30_000,
          intervalMs: 20,
        });
        const detected = performance.now();
        // The new master must see each node: the old one may still acknowledge calls.
        const fresh = await connect({ url: (await group.master()).url });
        const before = await channels.written(fresh);
        await eventually(
          async () => {
            const now = await channels.written(fresh);
            expect(Math.min(...now.map((value, i) => value - (before[i] ?? 0)))).toBeGreaterThan(0);
          },
          { timeoutMs: RECOVERY_MS },
        );
        took.get(way)?.push(performance.now() - detected);
        const inAll = await channels.lost(fresh);
        gone.set(way, (gone.get(way) ?? 0) + Math.max(0, inAll - lost));
        lost = Math.max(lost, inAll);
        // Subscribers get `resync` after they have found the new master.
        await eventually(
          () => expect(resyncs.length, `resyncs after ${way}`).toBeGreaterThan(earlier),
          { timeoutMs: 2 * RECOVERY_MS },
        );
        if (way === 'kill') await old.start();
        if (way === 'stop') old.resume();
      }
      await channels.stop();
      const master = await group.master();
      const healthy = await connect({ url: master.url });
      for (const [way, times] of took) {
        console.log(
          `failover by ${way}: from detection to recovery ${spread(times)}; ` +
            `about ${gone.get(way)} acknowledged changes lost`,
        );
      }
      console.log(`failovers: ${ledger.summary()}; ${await channels.lost(healthy)} lost in all`);
      expect(ledger.unsettled).toBe(0);
      expect(ledger.strange).toEqual([]);
    },
  );
});
