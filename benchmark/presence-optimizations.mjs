// The scenario of the reference document: heartbeats of 100 rooms with 10 users each. It compares
// the three forms of that document with Rollcall, with the metrics of that document.
import { CROWD, heartbeaters, LABELS } from './lib/heartbeaters.mjs';
import { medians, ratio } from './lib/statistics.mjs';
import { atLeast, atMost, micros, part, times } from './lib/targets.mjs';

/** Every user sends one heartbeat in five seconds. */
const HEARTBEAT_INTERVAL_MS = 5000;
const PER_SECOND = (CROWD.rooms * CROWD.perRoom * 1000) / HEARTBEAT_INTERVAL_MS;

const LOADS = [
  {
    key: 'every5s',
    title: `every 5 s (${PER_SECOND}/s)`,
    perSecond: PER_SECOND,
    ms: 2500,
    rounds: 2,
  },
  { key: 'open20k', title: '20 000/s, open loop', perSecond: 20_000, ms: 1500, rounds: 3 },
  { key: 'closed1', title: '1 in flight', inFlight: 1, ms: 1000, rounds: 3 },
  { key: 'closed64', title: '64 in flight', inFlight: 64, ms: 1000, rounds: 3 },
  // Most targets refer to this load. The speed of a process can differ by a quarter from that of
  // another process of the same program for its whole life (V8's optimizations), so each round
  // starts new processes.
  { key: 'closed256', title: '256 in flight', inFlight: 256, ms: 1200, rounds: 7, apart: true },
  { key: 'closed1000', title: '1000 in flight', inFlight: 1000, ms: 1200, rounds: 5 },
];

const COLUMNS = [
  { key: 'opsPerSecond', label: 'heartbeats/s' },
  { key: 'heartbeatLatencyP50', label: 'P50 ms' },
  { key: 'heartbeatLatencyP99', label: 'P99 ms' },
  { key: 'redisOpsPerSecond', label: 'Redis ops/s' },
  { key: 'memoryUsageMB', label: 'memory MB' },
  { key: 'cpuUsagePercent', label: 'CPU %' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
];

export default {
  name: 'heartbeats',
  title: 'Heartbeats: 100 rooms with 10 users each',
  about:
    'The three forms of the reference document, in plain JavaScript on ioredis, and Rollcall. ' +
    'Times in µs are per heartbeat, the load itself included.',
  subjects: heartbeaters,

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    const nothing = await start('nothing');
    const own = await interleave([nothing], scale.rounds(3), (worker) =>
      worker.call('heartbeat', { inFlight: 256, ops: scale.count(2_000_000) }),
    );
    const loop = medians(own.nothing).jsThreadMicros;

    const results = {};
    for (const { key, ms, rounds, perSecond, inFlight, apart } of LOADS) {
      const load = { perSecond, inFlight };
      const warmUp = (worker) => worker.call('heartbeat', { ...load, ms: scale.ms(400) });
      const round = (worker) => worker.call('heartbeat', { ...load, ms: scale.ms(ms) });
      const roundApart = async ({ subject }) => {
        const worker = await start(subject);
        await warmUp(worker);
        const result = await round(worker);
        await worker.end();
        return result;
      };
      if (!apart) for (const worker of workers) await warmUp(worker);
      results[key] = await interleave(workers, scale.rounds(rounds), apart ? roundApart : round);
    }

    const { closed256, closed1000, open20k } = results;
    const against = (other, key, of = closed256) => ratio(of.rollcall, of[other], key);
    const thread = medians(closed256.rollcall).jsThreadMicros;
    return {
      tables: LOADS.map(({ key, title }) => ({
        title,
        columns: COLUMNS,
        rows: Object.entries(LABELS).map(([subject, label]) => ({
          label,
          values: medians(results[key][subject]),
        })),
      })),
      notes: [`The load itself costs ${micros(loop)} of the JavaScript thread per heartbeat.`],
      targets: [
        atLeast(
          '1a',
          'heartbeats/s, 256 in flight, relative to the baseline',
          12,
          against('baseline', 'opsPerSecond'),
          times,
        ),
        atLeast(
          '1b',
          'heartbeats/s, 256 in flight, relative to the Lua form',
          4,
          against('lua', 'opsPerSecond'),
          times,
        ),
        atLeast(
          '1b, with HGET',
          'the same, relative to the Lua form that reads the room first',
          4,
          against('luaLookup', 'opsPerSecond'),
          times,
        ),
        atLeast(
          '1c',
          'heartbeats/s, 256 in flight, relative to the batcher',
          5,
          against('batching', 'opsPerSecond'),
          times,
        ),
        atMost(
          '2a',
          'Node CPU per heartbeat, relative to the baseline (256 in flight)',
          1 / 30,
          against('baseline', 'nodeCpuMicros'),
          part,
        ),
        atMost(
          '2b',
          'Node CPU per heartbeat, relative to the Lua form (256 in flight)',
          1 / 8,
          against('lua', 'nodeCpuMicros'),
          part,
        ),
        atMost(
          '2b, with HGET',
          'the same, relative to the Lua form that reads the room first',
          1 / 8,
          against('luaLookup', 'nodeCpuMicros'),
          part,
        ),
        atMost(
          '2c',
          'JavaScript-thread time per heartbeat, without the cost of the load (256 in flight)',
          0.6,
          thread - loop,
          micros,
        ),
        atMost(
          '2d',
          'the same with 1000 in flight',
          0.6,
          medians(closed1000.rollcall).jsThreadMicros - loop,
          micros,
        ),
        atMost(
          '3b',
          'P99 latency at 20 000 heartbeats/s, open loop, relative to the batcher',
          1 / 5,
          against('batching', 'heartbeatLatencyP99', open20k),
          part,
        ),
      ],
      charts: [
        [
          'heartbeats a second, closed loop',
          'opsPerSecond',
          ['closed64', 'closed256', 'closed1000'],
        ],
        ['p99 in milliseconds, 20 000 heartbeats a second', 'heartbeatLatencyP99', ['open20k']],
        ['Node CPU per heartbeat, µs', 'nodeCpuMicros', ['closed256']],
        ['Redis CPU per heartbeat, µs', 'redisCpuMicros', ['closed256']],
      ].map(([title, metric, keys]) => ({
        title,
        series: Object.values(LABELS),
        groups: keys.map((key) => ({
          label: LOADS.find((load) => load.key === key).title,
          values: Object.keys(LABELS).map((subject) => medians(results[key][subject])[metric]),
        })),
      })),
      rounds: { nothing: own.nothing, ...results },
    };
  },
};
