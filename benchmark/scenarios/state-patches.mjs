// Repeated patches of one key of a state of 60 KB: Rollcall in all forms of storage, compared with
// a service that reads, merges and writes the whole state.
import { AsWritten } from '../baselines/as-written.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { canvasOf } from '../lib/corpus.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, seed } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atLeast, times } from '../lib/targets.mjs';
import { bytesOf } from '../lib/wire.mjs';

const SIZE = 60_000;
const CROWD = { rooms: 8, perRoom: 8, prefix: 'big' };
const IN_FLIGHT = 64;

const LABELS = {
  baseline: 'Baseline (Current)',
  inline: 'Rollcall, inline',
  separate: 'Rollcall, separate',
  gzip: 'Rollcall, inline, gzip',
  zstd: 'Rollcall, separate, zstd',
};

const COLUMNS = [
  { key: 'opsPerSecond', label: 'patches/s' },
  { key: 'heartbeatLatencyP50', label: 'p50 ms' },
  { key: 'heartbeatLatencyP99', label: 'p99 ms' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'bytes', label: 'bytes on the wire' },
];

async function patcher(env, list, patch, state) {
  const control = connectIoredis(env);
  let x = 1;
  return {
    run: async ({ ms, inFlight }) => {
      const before = await bytesOf(control);
      const result = await measure(control, () =>
        closedLoop(
          ({ connId, epoch }) =>
            patch({ connId, epoch, patchState: { pointer: { x: x++, y: 7 } } }),
          list,
          { ms, inFlight },
        ),
      );
      const [{ connId }] = list;
      const found = JSON.parse((await state(control, connId)) ?? 'null');
      if (found !== null && !(found.pointer?.x > 0 && found.elements?.length > 10)) {
        throw new Error('the patches were not applied');
      }
      return { ...result, bytes: ((await bytesOf(control)) - before) / result.ops };
    },
  };
}

async function rollcall(env, options) {
  const client = await connectRollcall(env, options);
  const list = people(CROWD);
  await joinAll(client, list, canvasOf(SIZE));
  const patch = async (options) => {
    if (!(await client.heartbeat(options)).changed) throw new Error('not changed');
  };
  return patcher(env, list, patch, (control, connId) =>
    options.stateCompression
      ? undefined
      : options.stateStorage === 'separate'
        ? control.get(`prs:conn:${connId}:state`)
        : control.hget(`prs:conn:${connId}`, 'state'),
  );
}

export default {
  name: 'state-patches',
  title: 'Patches of a state of 60 KB',
  about:
    `${CROWD.rooms * CROWD.perRoom} connections, each with a canvas of ${SIZE / 1000} KB; each ` +
    `patch replaces one key, ${IN_FLIGHT} in flight; per patch. The events have no subscriber.`,

  subjects: {
    async baseline(env) {
      const redis = connectIoredis(env);
      const list = people(CROWD);
      await seed(redis, list, canvasOf(SIZE));
      const service = new AsWritten(redis);
      return patcher(
        env,
        list,
        (options) => service.heartbeat(options),
        (control, connId) => control.hget(`prs:conn:${connId}`, 'state'),
      );
    },
    inline: (env) => rollcall(env, {}),
    separate: (env) => rollcall(env, { stateStorage: 'separate' }),
    gzip: (env) => rollcall(env, { stateCompression: {} }),
    zstd: (env) => rollcall(env, { stateStorage: 'separate', stateCompression: { codec: 'zstd' } }),
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    const run = (ms) => (worker) => worker.call('run', { ms: scale.ms(ms), inFlight: IN_FLIGHT });
    await interleave(workers, 1, run(500));
    const results = await interleave(workers, scale.rounds(4), run(1500));
    const of = (subject) => ratio(results[subject], results.baseline, 'opsPerSecond');
    return {
      tables: [
        {
          title: 'Patches',
          columns: COLUMNS,
          rows: Object.entries(LABELS).map(([subject, label]) => ({
            label,
            values: medians(results[subject]),
          })),
        },
      ],
      targets: [
        atLeast(
          'state 3',
          'patches/s, separate, relative to the baseline',
          10,
          of('separate'),
          times,
        ),
      ],
      charts: [
        {
          title: 'patches per second',
          series: ['patches/s'],
          groups: Object.entries(LABELS).map(([subject, label]) => ({
            label,
            values: [medians(results[subject]).opsPerSecond],
          })),
        },
      ],
      rounds: results,
    };
  },
};
