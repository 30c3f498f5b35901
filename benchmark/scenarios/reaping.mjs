// Cost of reaping for a server on which nothing is due. Groups of identical nodes send the same
// heartbeats, each group to its own server, all at the same time. The cost of reaping is the
// server's CPU above its CPU before reaping began; this includes work that heartbeats do for the
// reaper. The growth of a server whose nodes never reap is subtracted, because the machine causes
// it.
import { setTimeout as delay } from 'node:timers/promises';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { serverCpuMs } from '../lib/measure.mjs';
import { joinAll, people } from '../lib/population.mjs';
import { atMost, grouped, part, times } from '../lib/targets.mjs';

const ROOMS = 10_000;
const PER_ROOM = 5;
const NODES = 3;
/** The default TTL and heartbeat interval of both implementations. */
const TTL_MS = 30_000;
/** The interval at which a node of the reference lists all rooms and queries each. */
const REFERENCE_MS = 3000;

/** Groups of nodes, and the number of nodes that reap in each. */
const FLEETS = {
  none: { label: 'no node reaps' },
  one: { label: `Rollcall, one of ${NODES} nodes`, reaping: 1 },
  three: { label: `Rollcall, ${NODES} nodes`, reaping: NODES },
  reference: { label: `every room every ${REFERENCE_MS / 1000} s, ${NODES} nodes`, asking: NODES },
  // In this case, two of the nodes find the rooms in the processor's cache.
  atOnce: { label: 'the same, all nodes at the same instant', asking: NODES },
};

const COLUMNS = [
  { key: 'redisCpuMs', label: 'Redis CPU ms/s' },
  { key: 'reapingMs', label: 'of that, reaping' },
  { key: 'looks', label: 'rooms inspected by passes/s' },
];

/**
 * The interval of heartbeats for a part of the connections: each connection has one heartbeat in a
 * third of the TTL.
 */
const TICK_MS = 500;
/**
 * The delay between groups within a tick; the servers are queried when all groups have finished.
 */
const STEP_MS = 50;
const QUIET_MS = 440;

/** Resolves when the clock is `ms` milliseconds into a period. */
function phase(periodMs, ms) {
  const now = Date.now();
  return delay((((ms - now) % periodMs) + periodMs) % periodMs);
}

/** One node in one group. */
async function member({ port, number, place, fleet }) {
  const all = people({ rooms: ROOMS, perRoom: PER_ROOM });
  const list = all.filter((_, i) => i % NODES === number);
  // Joins use a TTL longer than the set-up; the first heartbeats set the common TTL.
  const joining = await connectRollcall({ port, db: 0 });
  await joinAll(joining, list);
  await joining.close();
  const client = await connectRollcall({ port, db: 0 }, { ttlMs: TTL_MS, fallbackSweepMs: TTL_MS });
  const each = Math.ceil((list.length * TICK_MS * 3) / TTL_MS);
  let at = 0;
  const refresh = async (count) => {
    const items = Array.from({ length: count }, () => {
      const { connId, epoch } = list[at++ % list.length];
      return { connId, epoch };
    });
    for (const result of await client.heartbeatMany(items)) {
      if (result instanceof Error) throw result;
    }
  };
  await refresh(list.length);
  let looked = 0;
  let stopped = false;
  let failed;
  const every = async (periodMs, ms, work) => {
    while (!stopped) {
      await delay(periodMs / 2);
      await phase(periodMs, ms());
      await work();
    }
  };
  /** The query of the pure-TypeScript implementation: one call for each room, all at once. */
  const ask = async (redis) => {
    const rooms = await redis.smembers('prs:active_rooms');
    const before = Date.now() - TTL_MS;
    const asked = rooms.map((room) =>
      redis.zrangebyscore(`prs:{room:${room}}:last_seen`, 0, before),
    );
    for (const due of await Promise.all(asked)) {
      if (due.length > 0) throw new Error('something was due');
    }
    looked += rooms.length;
  };
  const loops = [];
  const loop = (...how) => {
    const ended = every(...how).catch((error) => {
      failed = error;
    });
    loops.push(ended);
  };
  // Groups go first in rotation: the first one after a pause finds cold caches.
  const turn = () => (place + Math.round(Date.now() / TICK_MS)) % Object.keys(FLEETS).length;
  loop(
    TICK_MS,
    () => turn() * STEP_MS,
    () => refresh(each),
  );
  const { reaping = 0, asking = 0 } = FLEETS[fleet];
  let redis;
  return {
    async reap() {
      if (number < asking) {
        redis = connectIoredis({ port, db: 0 });
        // Not at the end of the measured period.
        const after = ((fleet === 'atOnce' ? 2 : number + 1) * REFERENCE_MS) / (NODES + 1);
        loop(
          REFERENCE_MS,
          () => after,
          () => ask(redis),
        );
      } else if (number < reaping) {
        await client.startReaper();
      }
    },
    counts() {
      if (failed !== undefined) throw failed;
      const { expired, repairs, sweepsFailed, roomsSwept } = client.metrics();
      if (expired + repairs + sweepsFailed > 0) throw new Error('something was due');
      return { looked: looked + roomsSwept };
    },
    async end() {
      stopped = true;
      await Promise.all(loops);
      redis?.disconnect();
      await client.close();
    },
  };
}

export default {
  name: 'reaping',
  title: 'Nodes that reap all the time, nothing due',
  about:
    `${grouped(ROOMS)} rooms with ${PER_ROOM} connections each, on ${NODES} nodes at random; ` +
    `TTL ${TTL_MS / 1000} s, heartbeats every ${TTL_MS / 3000} s. One server for each method, all at the same time.`,

  subjects: {
    /** Starts one node in each group. */
    async node({ options: { ports, number } }) {
      const members = {};
      for (const [place, fleet] of Object.keys(FLEETS).entries()) {
        members[fleet] = await member({ port: ports[fleet], number, place, fleet });
      }
      return {
        reap: () => Promise.all(Object.values(members).map((one) => one.reap())),
        counts: () =>
          Object.fromEntries(Object.entries(members).map(([fleet, one]) => [fleet, one.counts()])),
        end: () => Promise.all(Object.values(members).map((one) => one.end())),
      };
    },
  },

  async run({ start, openServer, scale }) {
    const ports = {};
    for (const fleet of Object.keys(FLEETS)) ports[fleet] = (await openServer()).port;
    const numbers = Array.from({ length: NODES }, (_, number) => number);
    const nodes = await Promise.all(numbers.map((number) => start('node', { ports, number })));
    const controls = Object.entries(ports).map(([fleet, port]) => [
      fleet,
      connectIoredis({ port, db: 0 }),
    ]);
    const look = async () => {
      await phase(REFERENCE_MS, QUIET_MS);
      const ms = performance.now();
      const cpu = await Promise.all(controls.map(([, control]) => serverCpuMs(control)));
      const counts = await Promise.all(nodes.map((node) => node.call('counts')));
      const sum = (fleet, key) => counts.reduce((total, of) => total + of[fleet][key], 0);
      const of = controls.map(([fleet], i) => [
        fleet,
        { cpu: cpu[i], looked: sum(fleet, 'looked') },
      ]);
      return { ms, of: Object.fromEntries(of) };
    };

    // One shard is checked in each round.
    const roundMs = scale.ms(TTL_MS);
    const rounds = async (count) => {
      const found = Object.fromEntries(Object.keys(FLEETS).map((fleet) => [fleet, []]));
      let before = await look();
      for (let round = 0; round < count; round++) {
        await delay(roundMs - REFERENCE_MS / 2);
        const after = await look();
        const seconds = (after.ms - before.ms) / 1000;
        for (const [fleet, list] of Object.entries(found)) {
          const [was, is] = [before.of[fleet], after.of[fleet]];
          list.push({
            redisCpuMs: (is.cpu - was.cpu) / seconds,
            looks: (is.looked - was.looked) / seconds,
          });
        }
        before = after;
      }
      return found;
    };
    const mean = (list, key) => list.reduce((sum, round) => sum + round[key], 0) / list.length;

    // The initial growth of a server is not measured.
    await delay(roundMs);
    const without = await rounds(scale.rounds(4));
    for (const node of nodes) await node.call('reap');
    // A node takes over a room when the room becomes due.
    await delay(scale.ms(2.5 * TTL_MS));
    const results = await rounds(scale.rounds(4));
    const more = (fleet, round) =>
      results[fleet][round].redisCpuMs - mean(without[fleet], 'redisCpuMs');
    for (const [fleet, list] of Object.entries(results)) {
      for (const [round, result] of list.entries()) {
        result.reapingMs = more(fleet, round) - more('none', round);
      }
    }
    for (const node of nodes) await node.call('end');
    for (const [, control] of controls) control.disconnect();

    const rows = Object.entries(FLEETS).map(([fleet, { label }]) => ({
      label,
      values: Object.fromEntries(COLUMNS.map(({ key }) => [key, mean(results[fleet], key)])),
    }));
    const reaping = (fleet) => mean(results[fleet], 'reapingMs');
    return {
      rounds: { without, results },
      tables: [
        {
          title: `${results.none.length} × ${roundMs / 1000} s, means`,
          columns: COLUMNS,
          rows,
        },
      ],
      targets: [
        atMost(
          'reaping a',
          `Redis CPU of ${NODES} reaping nodes, relative to ${NODES} nodes that query every room every 3 s`,
          1 / 10,
          reaping('three') / reaping('reference'),
          part,
        ),
        atMost(
          'reaping a (at once)',
          'the same, when those nodes query at the same instant',
          1 / 10,
          reaping('three') / reaping('atOnce'),
          part,
        ),
        atMost(
          'reaping b',
          `Redis CPU of ${NODES} reaping nodes, relative to one node`,
          1.3,
          reaping('three') / reaping('one'),
          times,
        ),
      ],
      charts: [
        {
          title: 'Redis CPU of reaping, ms a second',
          series: ['Redis CPU'],
          groups: rows.slice(1).map(({ label, values }) => ({ label, values: [values.reapingMs] })),
        },
      ],
    };
  },
};
