// Servers that stop, and networks that drop all packets. Calls fail in time, half-open connections
// are detected, and everything recovers without a new call.
import { describe, expect } from 'vitest';
import { eventually, startClock } from '../support/wait.js';
import { spread } from './figures.js';
import { count, LONG, proven } from './proven.js';
import { follow } from './view.js';
import { connect, ROOMS, startWorld, type World } from './world.js';

/** The promise is five seconds from the last answer; the rest is tolerance for a busy machine. */
const NOTICED_MS = 5000;
const GRACE_MS = 1000;
const limits = { commandTimeoutMs: 1000, connectTimeoutMs: 1000 };
/** Timeouts end calls earlier than pings do, which can detect the loss only after four seconds. */
const BEFORE_PINGS_MS = 3500;

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Joins one connection per room; returns a function that changes every room from another node. */
async function populate(world: World): Promise<void> {
  for (let i = 0; i < 8; i++) {
    await world.healthy.join({ roomId: `r${i % 4}`, userId: `u${i}`, connId: `h${i}` });
  }
}

/** The state of the client's connections. */
function stateOf(world: World, node = 0): string[] {
  const states: string[] = [];
  world.nodes[node]?.on('state', ({ state }) => void states.push(state));
  return states;
}

describe('2: SIGSTOP of Redis', () => {
  proven('for 0.3 s, under load: no call fails', { without: 'queue-timeout' }, async () => {
    const world = await startWorld({ client: { limits: { commandTimeoutMs: 2000 } } });
    const load = world.load();
    await eventually(() => world.ledger.ended('done') > 200);
    world.server.pause();
    await new Promise((resolve) => setTimeout(resolve, 300));
    world.server.resume();
    const done = world.ledger.ended('done');
    await eventually(() => world.ledger.ended('done') > done + 200);
    await load.stop();
    console.log(`SIGSTOP 0.3 s: ${world.ledger.summary()}`);
    expect(world.ledger.trouble()).toBe(0);
    for (const view of world.views) expect(view.resyncs).toBe(0);
    await world.converged();
    await world.emptied();
  });

  for (const ms of LONG ? [2000, 30_000] : [2000]) {
    const timeoutMs = 2 * ms + 30_000;
    proven(`for ${ms / 1000} s, under load`, { without: 'deadlines', timeoutMs }, async () => {
      const world = await startWorld({ client: { limits } });
      // And one on which no calls are made.
      const idle = await connect({ url: world.proxy.url, limits });
      world.views.push(await follow(idle, ROOMS));
      const load = world.load();
      await eventually(() => world.ledger.ended('done') > 200);
      world.server.pause();
      const paused = performance.now();
      const calls = world.nodes.map(async (node) => {
        const clock = startClock();
        await world.ledger.follow('leave', node.leave('n0-0'));
        return clock.ms;
      });
      const inTime = Promise.all(calls).then(() => true);
      const ended = await Promise.race([inTime, pause(BEFORE_PINGS_MS).then(() => false)]);
      await pause(paused + ms - performance.now());
      world.server.resume();
      const took = await Promise.all(calls);
      expect(ended, 'calls end while it is stopped').toBe(true);
      for (const ms of took) {
        expect(ms, 'a call takes').toBeLessThan(limits.commandTimeoutMs + GRACE_MS);
      }
      const resumed = performance.now();
      const done = world.ledger.ended('done');
      await eventually(() => world.ledger.ended('done') > done + 200);
      const again = performance.now() - resumed;
      await load.stop();
      expect(world.ledger.trouble()).toBeGreaterThan(0);
      await world.converged();
      console.log(
        `SIGSTOP ${ms / 1000} s: calls failed ${spread(took)}; 200 more were done ` +
          `${Math.round(again)} ms after it; ${world.ledger.summary()}`,
      );
      await world.emptied();
    });
  }
});

describe('2: a blackholed connection', () => {
  proven('an idle subscriber detects it within 5 s', { without: 'pings' }, async () => {
    const world = await startWorld({ nodes: 1, client: { limits } });
    const [view] = world.views;
    await populate(world);
    await eventually(() => view?.describe().length === 8);
    // No calls are made on the node from here on.
    world.proxy.blackhole(true);
    const began = performance.now();
    await world.healthy.leave('h0');
    await new Promise((resolve) => setTimeout(resolve, 200));
    world.proxy.blackhole(false);
    await eventually(() => expect(view?.resyncs).toBe(1), { timeoutMs: NOTICED_MS + GRACE_MS });
    console.log(`blackhole: noticed after ${Math.round(performance.now() - began)} ms`);
    await world.converged();
    await world.emptied();
  });

  proven('calls fail in time during the outage', { without: 'deadlines' }, async () => {
    const world = await startWorld({ nodes: 1, client: { limits } });
    const node = world.node();
    const [view] = world.views;
    if (!view) throw new Error('there is no view');
    await populate(world);
    await node.join({ roomId: 'r0', userId: 'u', connId: 'own' });
    const states = stateOf(world);
    world.proxy.blackhole(true);
    const times: number[] = [];
    const calls = {
      join: () => node.join({ roomId: 'r0', userId: 'u', connId: 'other' }),
      heartbeat: () => node.heartbeat({ connId: 'own' }),
      patch: () => node.heartbeat({ connId: 'own', patchState: { a: 1 } }),
      leave: () => node.leave('own'),
      snapshot: () => node.fetchRoomSnapshot('r0'),
      user: () => node.getUserPresence('u'),
      reap: () => node.reapOnce(),
    };
    const waits = Object.entries(calls).map(async ([name, call]) => {
      const began = performance.now();
      const clock = startClock();
      const error = await call().then(
        () => ({ code: 'ok' }),
        (reason: { code: string; outcome?: string }) => reason,
      );
      expect(performance.now() - began, name).toBeLessThan(BEFORE_PINGS_MS);
      const took = clock.ms;
      times.push(took);
      expect(['TIMEOUT', 'UNAVAILABLE'], name).toContain(error.code);
      // A heartbeat may first wait for the previous batch.
      const most = limits.commandTimeoutMs * (/heartbeat|patch/.test(name) ? 2 : 1);
      expect(took, name).toBeLessThan(most + GRACE_MS);
    });
    const late = new Promise((_, reject) => setTimeout(reject, 6000, new Error('calls hang')));
    await Promise.race([Promise.all(waits), late]);
    await eventually(() => expect(states).toContain('disconnected'), {
      timeoutMs: NOTICED_MS + GRACE_MS,
    });
    world.proxy.blackhole(false);
    // Without a call, the state and the view recover by themselves.
    console.log(`blackhole: calls failed ${spread(times)}`);
    await eventually(() => expect(states.at(-1)).toBe('connected'), { timeoutMs: 4000 });
    await eventually(() => expect(view.resyncs).toBeGreaterThan(0), { timeoutMs: 4000 });
    await world.converged({ withinMs: 4000 });
    await world.emptied();
  });

  proven('it recovers without a new call', { without: 'reconnect' }, async () => {
    const world = await startWorld({ nodes: 2, client: { limits } });
    await populate(world);
    world.proxy.refuse(true);
    await world.healthy.leave('h1');
    await world.healthy.join({ roomId: 'r1', userId: 'u', connId: 'new' });
    world.proxy.refuse(false);
    await eventually(
      () => {
        for (const view of world.views) expect(view.resyncs).toBe(1);
      },
      { timeoutMs: 4000 },
    );
    await world.converged();
    await world.emptied();
  });
});

describe('2: slow and fragmented', () => {
  proven(
    'all data delayed, and byte by byte',
    { without: 'queue-timeout', timeoutMs: 90_000 },
    async () => {
      const world = await startWorld({ nodes: 1, client: { limits: { commandTimeoutMs: 2000 } } });
      world.proxy.splits = true;
      world.proxy.delayMs = 120;
      const load = world.load({ conns: 10 });
      await eventually(() => world.ledger.calls > count(40, 400), { timeoutMs: 60_000 });
      await load.stop();
      console.log(`late and byte by byte: ${world.ledger.summary()}`);
      expect(world.ledger.trouble()).toBe(0);
      world.proxy.splits = false;
      world.proxy.delayMs = 0;
      await world.converged({ withinMs: 5000 });
      await world.emptied();
    },
  );
});
