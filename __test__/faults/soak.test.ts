// Issue 8, "It must show" 8: random faults at a fixed load; converged after each, and no memory that
// grows.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect } from 'vitest';
import { eventually } from '../support/wait.js';
import { contend, writeChannels } from './claims.js';
import { LONG, proven } from './proven.js';
import { startWorld, type World } from './world.js';

const SOAK_MS = LONG ? 600_000 : 15_000;
const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };
const MIB = 1 << 20;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

type Fault = (world: World) => Promise<unknown>;

const faults: Record<string, Fault> = {
  'CLIENT KILL pubsub': ({ redis }) =>
    redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub', 'USER', 'default'),
  'CLIENT KILL normal': ({ redis }) =>
    redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'USER', 'default'),
  cut: async ({ proxy }) => proxy.cut(),
  'lost replies': ({ proxy }) => proxy.loseReplies(/EVALSHA/, 5),
  'SCRIPT FLUSH': ({ redis }) => redis.script('FLUSH'),
  blackhole: async ({ proxy }) => {
    proxy.blackhole(true);
    await pause(300);
    proxy.blackhole(false);
  },
  SIGSTOP: async ({ server, random }) => {
    server.pause();
    await pause(random.int(100, LONG ? 3000 : 500));
    server.resume();
  },
  late: async ({ proxy }) => {
    proxy.delayMs = 50;
    await pause(500);
    proxy.delayMs = 0;
  },
  'kill -9': async (world) => {
    await world.server.kill();
    await world.server.start();
    await world.listenAgain();
  },
};

/** Slope by hour of a line through the points, and its standard error. */
function slope(points: [ms: number, mib: number][]): { perHour: number; error: number } {
  const n = points.length;
  const mean = (of: 0 | 1) => points.reduce((sum, point) => sum + point[of], 0) / n;
  const [x, y] = [mean(0), mean(1)];
  const square = points.reduce((sum, point) => sum + (point[0] - x) ** 2, 0);
  const along = points.reduce((sum, point) => sum + (point[0] - x) * (point[1] - y), 0) / square;
  const rest = points.reduce((sum, [at, mib]) => sum + (mib - y - along * (at - x)) ** 2, 0);
  return { perHour: along * 3600_000, error: Math.sqrt(rest / (n - 2) / square) * 3600_000 };
}

describe('8: soak', () => {
  proven(
    `${SOAK_MS / 1000} s of random faults`,
    { without: 'gaps', timeoutMs: 2 * SOAK_MS + 60_000 },
    async () => {
      const world = await startWorld({ client: { limits }, server: { appendonly: true } });
      const { ledger, random } = world;
      const began = performance.now();
      const seen = new Map<string, number>();
      const memory: [number, number][] = [];
      let calls = 0;
      let grants = 0;
      while (performance.now() - began < SOAK_MS) {
        const load = world.load({ pauseMs: 2 });
        const locks = contend(world.nodes, ledger, random, { keeps: false });
        const channels = await writeChannels(world.nodes, ledger);
        for (let i = random.int(1, 3); i > 0; i--) {
          const name = random.pick(Object.keys(faults));
          seen.set(name, (seen.get(name) ?? 0) + 1);
          await faults[name]?.(world);
          const done = ledger.ended('done');
          await eventually(() => ledger.ended('done') > done + 100, { timeoutMs: 10_000 });
        }
        await Promise.all([load.stop(), locks.stop(), channels.stop()]);
        // A black hole is found by pings, within five seconds.
        await world.converged({ withinMs: 8000, missing: Number.POSITIVE_INFINITY });
        await channels.check(world.healthy);
        await locks.check(world.healthy);
        calls += ledger.calls;
        grants += locks.grants;
        ledger.forget();
        collect();
        memory.push([performance.now() - began, process.memoryUsage.rss() / MIB]);
      }
      // The first third is warm-up.
      const settled = memory.slice(Math.ceil(memory.length / 3));
      const { perHour, error } = slope(settled);
      console.log(
        `soak: ${calls} calls, ${grants} grants, faults ${JSON.stringify(Object.fromEntries(seen))}; ` +
          `${memory.length} times converged; memory ${perHour.toFixed(1)} ± ${error.toFixed(1)} MiB/h`,
      );
      // In seconds, nothing can be said about an hour.
      if (LONG) expect(perHour - 2 * error).toBeLessThan(1);
      await world.emptied({ channels: true });
    },
  );
});
