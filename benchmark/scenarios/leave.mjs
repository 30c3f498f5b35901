// Redis CPU of a leave in rooms of 20 and of 2000. The connections join again between two rounds.
import { AsWritten } from '../baselines/as-written.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { inParallel, joinAll, people, seed } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atMost, times } from '../lib/targets.mjs';

/** The number of connections and the share that leaves do not depend on the size of the rooms. */
const CONNECTIONS = 2000;
const LEAVING = 200;
const SIZES = [20, 2000];
const LABELS = { rollcall: 'Rollcall', baseline: 'Baseline (Current)' };

const COLUMNS = [
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'opsPerSecond', label: 'leaves/s' },
];

async function leaver(env, open) {
  const control = connectIoredis(env);
  const { leave, join } = await open();
  const crowds = {};
  for (const size of SIZES) {
    crowds[size] = people({
      rooms: CONNECTIONS / size,
      perRoom: size,
      prefix: `leave${size}`,
      first: 1 + size * CONNECTIONS,
    });
    await join(crowds[size]);
  }
  return {
    run: async ({ size, times }) => {
      const crowd = crowds[size];
      const results = [];
      for (let i = 0; i < times; i++) {
        const leaving = crowd.splice(0, LEAVING);
        results.push(
          await measure(control, async () => {
            await inParallel(16, LEAVING, async (i) => {
              if ((await leave(leaving[i].connId)) === null) throw new Error('it was not there');
            });
            return { ops: LEAVING };
          }),
        );
        await join(leaving);
        crowd.push(...leaving);
      }
      return medians(results);
    },
  };
}

export default {
  name: 'leave',
  title: 'Leaving a room',
  about: `${LEAVING} of ${CONNECTIONS} connections leave, 16 at a time; per leave.`,

  subjects: {
    rollcall: (env) =>
      leaver(env, async () => {
        const client = await connectRollcall(env);
        return { leave: (connId) => client.leave(connId), join: (list) => joinAll(client, list) };
      }),
    baseline: (env) =>
      leaver(env, async () => {
        const redis = connectIoredis(env);
        const service = new AsWritten(redis);
        return { leave: (connId) => service.leave(connId), join: (list) => seed(redis, list) };
      }),
  },

  async run({ start, interleave, scale }) {
    const workers = [await start('rollcall'), await start('baseline')];
    const runs = workers.flatMap((worker) =>
      SIZES.map((size) => ({
        subject: `${worker.subject}${size}`,
        // The baseline takes longer and varies less.
        run: (count) =>
          worker.call('run', { size, times: worker.subject === 'baseline' ? 1 : count }),
      })),
    );
    await interleave(runs, 1, ({ run }) => run(1));
    const results = await interleave(runs, scale.rounds(5), ({ run }) => run(3));
    const compared = ratio(results.rollcall2000, results.rollcall20, 'redisCpuMicros');
    return {
      tables: SIZES.map((size) => ({
        title: `rooms of ${size}`,
        columns: COLUMNS,
        rows: Object.entries(LABELS).map(([subject, label]) => ({
          label,
          values: medians(results[subject + size]),
        })),
      })),
      targets: [
        atMost(
          '5e',
          'Redis CPU of a leave from a room of 2000, relative to a room of 20 (1, plus noise)',
          1.1,
          compared,
          times,
        ),
      ],
      charts: [
        {
          title: 'Redis CPU per leave, µs',
          series: Object.values(LABELS),
          groups: SIZES.map((size) => ({
            label: `room of ${size}`,
            values: Object.keys(LABELS).map(
              (subject) => medians(results[subject + size]).redisCpuMicros,
            ),
          })),
        },
      ],
      rounds: results,
    };
  },
};
