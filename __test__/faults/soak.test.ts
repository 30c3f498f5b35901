// Random faults at a fixed load: the test checks convergence after each, and that memory does not
// grow.
import { describe, expect, onTestFinished } from 'vitest';
import { startFixture } from '../support/process.js';
import { eventually, slowness, within } from '../support/wait.js';
import { contend, writeChannels } from './claims.js';
import { slope } from './figures.js';
import { count, LONG, proven, SOAK } from './proven.js';
import { startWorld, type World } from './world.js';

const SOAK_MS = SOAK ? 600_000 : count(15_000, 60_000);
const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };
const MIB = 1 << 20;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** The report of `fixtures/soaked.mjs`. */
interface Measurement {
  at: string;
  rss: number;
  heapUsed: number;
  oldestMs: number;
  calls: number;
  failed: number;
  events: number;
  resyncs: number;
  unhandled: string[];
  unsettled?: number;
}

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

describe('8: soak', () => {
  proven(
    `${SOAK_MS / 1000} s of random faults`,
    { without: 'gaps', timeoutMs: 2 * SOAK_MS + 60_000 },
    async () => {
      const world = await startWorld({ client: { limits }, server: { appendonly: true } });
      const { ledger, random } = world;
      // In addition to the checked nodes, one process runs only Rollcall: its memory growth is not
      // affected by proxies, checks and the test runner.
      const soaked = startFixture<Measurement>('faults/fixtures/soaked.mjs', {
        args: [world.proxy.url],
        // Memory that V8 and malloc keep for later varies, and is not a leak.
        execArgv: ['--expose-gc', '--max-semi-space-size=1'],
        env: { MALLOC_ARENA_MAX: '1' },
      });
      onTestFinished(async () => {
        await soaked.kill();
      });
      await soaked.message(({ at }) => at === 'ready');
      const began = performance.now();
      const seen = new Map<string, number>();
      const memory: [number, number][] = [];
      let calls = 0;
      let grants = 0;
      while (performance.now() - began < SOAK_MS) {
        const load = world.load({ pauseMs: 2 });
        const locks = contend(world.nodes, ledger, random, { keeps: false });
        const channels = await writeChannels(world.nodes, ledger);
        const name = random.pick(Object.keys(faults));
        seen.set(name, (seen.get(name) ?? 0) + 1);
        await faults[name]?.(world);
        const done = ledger.ended('done');
        await eventually(() => ledger.ended('done') > done + 100, { timeoutMs: 10_000 });
        await Promise.all([load.stop(), locks.stop(), channels.stop()]);
        // Pings detect a blackhole within five seconds.
        await world.converged({ withinMs: 8000, missing: Number.POSITIVE_INFINITY });
        await channels.check(world.healthy);
        await locks.check(world.healthy);
        calls += ledger.calls;
        grants += locks.grants;
        ledger.forget();
        const earlier = soaked.messages.length;
        soaked.send('measure');
        await eventually(() => soaked.messages.length > earlier, { timeoutMs: 10_000 });
        const measurement = soaked.messages.at(-1);
        if (!measurement) throw new Error('no measurement was received');
        expect(measurement.unhandled).toEqual([]);
        // A heartbeat waits for the previous one, a lock for its timeout, and each may be sent
        // again.
        expect(measurement.oldestMs, 'ms that a call takes').toBeLessThan(5000 * slowness());
        memory.push([performance.now() - began, measurement.rss / MIB]);
      }
      soaked.send('end');
      const last = await soaked.message(({ at }) => at === 'ended', 15_000);
      expect([last.unsettled, last.unhandled]).toEqual([0, []]);
      expect(await within(soaked.exited, 5000, 'the end')).toEqual({ code: 0, signal: null });
      // The first third is warm-up.
      const settled = memory.slice(Math.ceil(memory.length / 3));
      const { perHour, error } = slope(settled);
      console.log(
        `soak: ${calls + last.calls} calls, ${grants} grants, faults ${JSON.stringify(Object.fromEntries(seen))}; ` +
          `${memory.length} times converged; memory of a node ${(memory.at(-1)?.[1] ?? 0).toFixed(1)} MiB, ${perHour.toFixed(1)} ± ${error.toFixed(1)} MiB/h`,
      );
      // A minute is too short for a growth rate per hour.
      if (SOAK) expect(perHour - 2 * error).toBeLessThan(1);
      await world.emptied({ channels: true });
    },
  );
});
