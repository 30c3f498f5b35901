// Heartbeats with a patch of a small state and an event for each patch: Rollcall on both layouts,
// compared with a script that merges and publishes in one EVALSHA through ioredis, and with plain
// JavaScript.
import { AsWritten } from '../baselines/as-written.mjs';
import { Lua } from '../baselines/lua.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, seed } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atLeast, times } from '../lib/targets.mjs';

const CROWD = { rooms: 100, perRoom: 10 };
const IN_FLIGHT = [1, 64, 256, 1000];

const LABELS = {
  baseline: 'Baseline (Current)',
  lua: 'With Lua Scripts',
  rollcall: 'Rollcall',
  slotted: 'Rollcall, slotted',
};

const COLUMNS = [
  { key: 'opsPerSecond', label: 'patches/s' },
  { key: 'heartbeatLatencyP50', label: 'P50 ms' },
  { key: 'heartbeatLatencyP99', label: 'P99 ms' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
];

/**
 * The methods of one process: patches a cursor to a new value each time, so that each patch has an
 * event.
 */
function patcher(env, list, heartbeat) {
  const control = connectIoredis(env);
  let x = 1_000_000;
  const patch = async ({ connId, roomId, epoch }) => {
    const patchState = { cursor: { x: ++x, y: 348 } };
    if (!(await heartbeat({ connId, roomId, epoch, patchState }))) throw new Error('not changed');
  };
  return {
    patch: (load) => measure(control, () => closedLoop(patch, list, load)),
  };
}

async function plain(env, open) {
  const redis = connectIoredis(env);
  const list = people(CROWD);
  await seed(redis, list);
  const service = await open(redis);
  return patcher(env, list, (options) => service.heartbeat(options));
}

async function rollcall(env, options) {
  const client = await connectRollcall(env, options);
  const list = people(CROWD);
  await joinAll(client, list);
  return patcher(env, list, async ({ connId, epoch, patchState }) => {
    return (await client.heartbeat({ connId, epoch, patchState })).changed;
  });
}

export default {
  name: 'patches',
  title: 'Heartbeats with a patch: 100 rooms with 10 users each',
  about:
    'Each heartbeat changes one key of a small state, and its event is published without a subscriber. ' +
    '“With Lua Scripts” merges by cjson and publishes in one EVALSHA. Times in µs are per patch.',

  subjects: {
    baseline: (env) => plain(env, (redis) => new AsWritten(redis)),
    lua: (env) => plain(env, (redis) => new Lua(redis, { publishes: true }).load()),
    rollcall: (env) => rollcall(env, {}),
    slotted: (env) => rollcall(env, { layout: 'slotted' }),
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    const results = {};
    for (const inFlight of IN_FLIGHT) {
      const run = (ms) => (worker) => worker.call('patch', { inFlight, ms: scale.ms(ms) });
      await interleave(workers, 1, run(400));
      results[inFlight] = await interleave(workers, scale.rounds(3), run(1200));
    }
    const over = (inFlight) => {
      const of = results[inFlight];
      return ratio(of.rollcall, of.baseline, 'opsPerSecond');
    };
    return {
      tables: IN_FLIGHT.map((inFlight) => ({
        title: `${inFlight} in flight`,
        columns: COLUMNS,
        rows: Object.entries(LABELS).map(([subject, label]) => ({
          label,
          values: medians(results[inFlight][subject]),
        })),
      })),
      targets: IN_FLIGHT.map((inFlight) =>
        atLeast(
          `patches ${inFlight}`,
          `patches/s, ${inFlight} in flight, relative to the baseline`,
          1,
          over(inFlight),
          times,
        ),
      ),
      charts: [
        {
          title: 'patches per second',
          series: Object.values(LABELS),
          groups: IN_FLIGHT.map((inFlight) => ({
            label: `${inFlight} in flight`,
            values: Object.keys(LABELS).map(
              (subject) => medians(results[inFlight][subject]).opsPerSecond,
            ),
          })),
        },
      ],
      rounds: results,
    };
  },
};
