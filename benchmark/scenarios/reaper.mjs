// The reaper with 10 000 rooms in which nothing is due: one pass of it, beside asking each room; and
// nodes that reap all the time while heartbeats keep everybody alive.
import { setTimeout as delay } from 'node:timers/promises';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure, serverCpuMs } from '../lib/measure.mjs';
import { joinAll, people, TTL_MS } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atMost, grouped, part, times } from '../lib/targets.mjs';

const ROOMS = 10_000;
const PER_ROOM = 5;
const LABELS = { rollcall: 'reapOnce', asking: `${grouped(ROOMS)} × ZRANGEBYSCORE, pipelined` };

const COLUMNS = [
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'ms', label: 'ms' },
];

/** Nodes that reap at the same time. */
const NODES = 3;
/** How often a node of the reference reads what rooms there are, and looks at each. */
const REFERENCE_MS = 3000;

const REAPING = {
  none: 'nobody reaps',
  one: 'Rollcall, one node',
  three: `Rollcall, ${NODES} nodes`,
  reference: `every room every ${REFERENCE_MS / 1000} s, ${NODES} nodes`,
};

const REAPING_COLUMNS = [
  { key: 'redisCpuMs', label: 'Redis CPU ms/s, without heartbeats' },
  { key: 'reapingMs', label: 'of that, reaping' },
  { key: 'looks', label: 'rooms looked at/s' },
  { key: 'heartbeatsMs', label: 'heartbeats beside it, Redis CPU ms/s' },
];

/** How often some of the connections have their heartbeats. */
const TICK_MS = 500;

/**
 * Gives rooms the times at which they come due as if they had been made at any time: those that came
 * due while nobody reaped would otherwise come due together ever after.
 */
async function spread(redis, { ttlMs }) {
  const now = Date.now();
  // A room comes due a TTL after the oldest of its last heartbeats.
  const periodMs = ttlMs - ((ttlMs / 3) * PER_ROOM) / (PER_ROOM + 1);
  for (const shard of await redis.keys('prs:due:*')) {
    // The entry without a name says when the last pass was.
    const rooms = (await redis.zrange(shard, 0, -1)).filter((room) => room !== '');
    const entries = rooms.flatMap((room) => [
      Math.round(now - ttlMs + Math.random() * periodMs),
      room,
    ]);
    await redis.zadd(shard, 'XX', ...entries);
  }
}

export default {
  name: 'reaper',
  title: 'Reaping with nothing due',
  about: `${grouped(ROOMS)} rooms with ${PER_ROOM} connections each.`,

  subjects: {
    async passes(env) {
      const redis = connectIoredis(env);
      const control = connectIoredis(env);
      const client = await connectRollcall(env);
      const list = people({ rooms: ROOMS, perRoom: PER_ROOM });
      await joinAll(client, list);
      const rooms = [...new Set(list.map(({ roomId }) => roomId))];
      const passes = {
        async rollcall() {
          const { expired } = await client.reapOnce();
          if (expired !== 0) throw new Error('something was due');
        },
        async asking() {
          const pipeline = redis.pipeline();
          const before = Date.now() - TTL_MS;
          for (const room of rooms) {
            pipeline.zrangebyscore(`prs:{room:${room}}:last_seen`, '-inf', before);
          }
          for (const [error, due] of await pipeline.exec()) {
            if (error ?? due.length > 0) throw error ?? new Error('something was due');
          }
        },
      };
      return {
        run: async ({ kind, ms }) => {
          const result = await measure(control, async () => {
            const until = performance.now() + ms;
            let ops = 0;
            for (; performance.now() < until; ops++) await passes[kind]();
            return { ops };
          });
          return { ...result, ms: (result.seconds * 1000) / result.ops };
        },
      };
    },

    /** Everybody, kept alive; also looks at what the server spends. */
    async population(env) {
      const control = connectIoredis(env);
      const list = people({ rooms: ROOMS, perRoom: PER_ROOM });
      let client;
      let each;
      let at = 0;
      let heartbeatsMs = 0;
      /** Heartbeats of those whose turn it is; adds up the server's CPU time for them. */
      const beat = async () => {
        const items = Array.from({ length: each }, () => {
          const { connId, epoch } = list[at++ % list.length];
          return { connId, epoch };
        });
        const before = await serverCpuMs(control);
        for (const result of await client.heartbeatMany(items)) {
          if (result instanceof Error) throw result;
        }
        heartbeatsMs += (await serverCpuMs(control)) - before;
      };
      let beating;
      let ticking;
      let stopped = false;
      /** What the server has spent so far, without heartbeats; when no heartbeats are on their way. */
      const spent = async () => {
        await beating;
        return { ms: performance.now(), cpu: await serverCpuMs(control), heartbeatsMs };
      };
      return {
        async start({ ttlMs }) {
          client = await connectRollcall(env, { ttlMs });
          // Joined with a TTL that outlives the joining; the first heartbeats make it that of all.
          const joining = await connectRollcall(env);
          await joinAll(joining, list);
          await joining.close();
          each = list.length;
          await beat();
          // Everybody once in a third of their TTL.
          each = Math.ceil((list.length * TICK_MS * 3) / ttlMs);
          ticking = (async () => {
            for (let next = performance.now(); !stopped; next += TICK_MS) {
              await delay(next - performance.now());
              beating = beat();
              await beating;
            }
          })();
          return { db: env.db };
        },
        spread: (times) => spread(control, times),
        /** What the server spends but for heartbeats, which are many times what is to be measured. */
        async spent({ ms }) {
          const before = await spent();
          await delay(ms);
          const after = await spent();
          const seconds = (after.ms - before.ms) / 1000;
          const beats = after.heartbeatsMs - before.heartbeatsMs;
          return {
            redisCpuMs: (after.cpu - before.cpu - beats) / seconds,
            heartbeatsMs: beats / seconds,
          };
        },
        async end() {
          stopped = true;
          await ticking;
          await client.close();
        },
      };
    },

    /** A node that reaps when told to, in one way or the other. */
    async node({ port }) {
      let redis;
      let client;
      let timer;
      let passing;
      let looks = 0;
      return {
        async startRollcall({ db, ttlMs, fallbackMs }) {
          client = await connectRollcall({ port, db }, { ttlMs, fallbackSweepMs: fallbackMs });
          await client.startReaper();
          while (client.metrics().sweeps === 0) await delay(10);
        },
        /** The TypeScript service's way: a call for each room, all at once. */
        async startReference({ db, ttlMs }) {
          redis = connectIoredis({ port, db });
          const pass = async () => {
            const rooms = await redis.smembers('prs:active_rooms');
            const before = Date.now() - ttlMs;
            const ask = (room) => redis.zrangebyscore(`prs:{room:${room}}:last_seen`, 0, before);
            for (const due of await Promise.all(rooms.map(ask))) {
              if (due.length > 0) throw new Error('something was due');
            }
            looks += rooms.length;
          };
          // None at the very beginning or end of what is measured.
          timer = setTimeout(() => {
            passing = pass();
            timer = setInterval(() => {
              passing = pass();
            }, REFERENCE_MS);
          }, REFERENCE_MS / 2);
        },
        looks: () => {
          if (client === undefined) return looks;
          const { expired, repairs, sweepsFailed, roomsSwept } = client.metrics();
          if (expired + repairs + sweepsFailed > 0) throw new Error('something was due');
          return roomsSwept;
        },
        async stop() {
          clearTimeout(timer);
          await passing;
          await client?.close();
          redis?.disconnect();
          client = undefined;
        },
      };
    },
  },

  async run(bench) {
    const pass = await runPasses(bench);
    const reaping = await runReaping(bench);
    return {
      tables: [pass.table, reaping.table],
      targets: [...pass.targets, ...reaping.targets],
      charts: [pass.chart, reaping.chart],
      rounds: { ...pass.results, ...reaping.results },
    };
  },
};

async function runPasses({ start, interleave, scale }) {
  const worker = await start('passes');
  const runs = Object.keys(LABELS).map((kind) => ({
    subject: kind,
    run: (ms) => worker.call('run', { kind, ms: scale.ms(ms) }),
  }));
  await interleave(runs, 1, ({ run }) => run(300));
  const results = await interleave(runs, scale.rounds(5), ({ run }) => run(500));
  await worker.end();
  const compared = ratio(results.rollcall, results.asking, 'redisCpuMicros');
  const rows = Object.entries(LABELS).map(([kind, label]) => ({
    label,
    values: medians(results[kind]),
  }));
  return {
    results,
    table: { title: 'One pass', columns: COLUMNS, rows },
    targets: [
      atMost(
        '6.2',
        'Redis CPU of a reaper pass, of 10 000 ZRANGEBYSCOREs (spec 6.2)',
        1 / 10,
        compared,
        part,
      ),
    ],
    chart: {
      title: 'Redis CPU per pass, µs',
      series: ['Redis CPU'],
      groups: rows.map(({ label, values }) => ({ label, values: [values.redisCpuMicros] })),
    },
  };
}

async function runReaping({ start, interleave, scale }) {
  // A minute of each, in parts that take turns: what else the machine does changes all of them alike.
  // As many passes of the reference fall into each part.
  const ms = 4 * REFERENCE_MS;
  const parts = scale.rounds(5);
  // The defaults of both.
  const ttlMs = 30_000;
  const lives = { ttlMs, fallbackMs: ttlMs };
  const population = await start('population');
  const { db } = await population.call('start', lives);
  const nodes = [];
  for (let i = 0; i < NODES; i++) nodes.push(await start('node'));

  const reap = async (count, way) => {
    const active = nodes.slice(0, count);
    const looks = async () => {
      const all = await Promise.all(active.map((node) => node.call('looks')));
      return all.reduce((sum, one) => sum + one, 0);
    };
    await population.call('spread', lives);
    for (const node of active) await node.call(way, { db, ...lives });
    const before = await looks();
    const spent = await population.call('spent', { ms });
    const looked = (await looks()) - before;
    for (const node of active) await node.call('stop');
    return { ...spent, looks: looked / (ms / 1000) };
  };
  const runs = [
    { subject: 'none', run: () => reap(0) },
    { subject: 'one', run: () => reap(1, 'startRollcall') },
    { subject: 'three', run: () => reap(NODES, 'startRollcall') },
    { subject: 'reference', run: () => reap(NODES, 'startReference') },
  ];
  const results = await interleave(runs, parts, ({ run }) => run());
  await population.call('end');

  // What the server spends in the same round when nobody reaps is taken off.
  for (const [kind, rounds] of Object.entries(results)) {
    for (const [round, result] of rounds.entries()) {
      result.reapingMs = kind === 'none' ? 0 : result.redisCpuMs - results.none[round].redisCpuMs;
    }
  }
  const mean = (kind, key) =>
    results[kind].reduce((sum, result) => sum + result[key], 0) / results[kind].length;
  const rows = Object.entries(REAPING).map(([kind, label]) => ({
    label,
    values: Object.fromEntries(REAPING_COLUMNS.map(({ key }) => [key, mean(kind, key)])),
  }));
  return {
    results,
    table: {
      title: `${(parts * ms) / 1000} s of reaping, TTL ${ttlMs / 1000} s, heartbeats every ${ttlMs / 3000} s`,
      columns: REAPING_COLUMNS,
      rows,
    },
    targets: [
      atMost(
        'issue 4, 1a',
        `Redis CPU of ${NODES} reaping nodes, of ${NODES} that look at every room every 3 s`,
        1 / 10,
        mean('three', 'reapingMs') / mean('reference', 'reapingMs'),
        part,
      ),
      atMost(
        'issue 4, 1b',
        `Redis CPU of ${NODES} reaping nodes, of one`,
        1.3,
        mean('three', 'reapingMs') / mean('one', 'reapingMs'),
        times,
      ),
    ],
    chart: {
      title: 'Redis CPU of reaping, ms a second',
      series: ['Redis CPU'],
      groups: rows.slice(1).map(({ label, values }) => ({ label, values: [values.reapingMs] })),
    },
  };
}
