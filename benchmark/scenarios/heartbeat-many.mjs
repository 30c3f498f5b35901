// A server that sends heartbeats for its own sockets: one `heartbeatMany` of 1000 compared with
// 1000 single calls.
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { CROWD } from '../lib/heartbeaters.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atMost, part } from '../lib/targets.mjs';

const LABELS = { many: 'heartbeatMany(1000)', single: '1000 × heartbeat' };

const COLUMNS = [
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'opsPerSecond', label: 'heartbeats/s' },
];

/** A subject that refreshes all its sockets repeatedly; `tick` resolves when all have settled. */
async function ticker(env, tick) {
  const control = connectIoredis(env);
  const client = await connectRollcall(env);
  const list = people(CROWD);
  await joinAll(client, list);
  return {
    run: ({ ms }) =>
      measure(control, async () => {
        const until = performance.now() + ms;
        let ops = 0;
        for (; performance.now() < until; ops += list.length) await tick(client, list);
        return { ops };
      }),
  };
}

export default {
  name: 'heartbeat-many',
  title: 'heartbeatMany',
  about: 'The JavaScript thread’s time per heartbeat; each tick waits for all of its results.',

  subjects: {
    many: (env) =>
      ticker(env, async (client, list) => {
        const items = list.map(({ connId, epoch }) => ({ connId, epoch }));
        for (const result of await client.heartbeatMany(items)) {
          if (result instanceof Error) throw result;
        }
      }),
    single: (env) =>
      ticker(
        env,
        (client, list) =>
          new Promise((resolve, reject) => {
            let left = list.length;
            const done = () => {
              if (--left === 0) resolve();
            };
            for (const { connId, epoch } of list) {
              client.heartbeat({ connId, epoch }).then(done, reject);
            }
          }),
      ),
  },

  async run({ start, interleave, scale }) {
    const workers = [await start('many'), await start('single')];
    const tick = (ms) => (worker) => worker.call('run', { ms: scale.ms(ms) });
    await interleave(workers, 1, tick(500));
    const results = await interleave(workers, scale.rounds(5), tick(1000));
    const rows = Object.entries(LABELS).map(([subject, label]) => ({
      label,
      values: medians(results[subject]),
    }));
    const compared = ratio(results.many, results.single, 'jsThreadMicros');
    return {
      tables: [{ title: 'Per heartbeat', columns: COLUMNS, rows }],
      targets: [
        atMost(
          '4',
          'JavaScript-thread time of heartbeatMany(1000), relative to 1000 single calls',
          0.5,
          compared,
          part,
        ),
      ],
      charts: [
        {
          title: 'JavaScript-thread time per heartbeat, µs',
          series: ['JavaScript thread'],
          groups: rows.map(({ label, values }) => ({ label, values: [values.jsThreadMicros] })),
        },
      ],
      rounds: results,
    };
  },
};
