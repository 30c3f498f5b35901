// Updates of the metadata of one channel: by 64 writers in one process, each with its own item, and
// by one writer alone.
import { OneAtATime, updateOptimistically } from '../baselines/optimistic.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { medians, ratio, Samples } from '../lib/statistics.mjs';
import { atLeast, atMost, times } from '../lib/targets.mjs';

const CHANNEL = { channelType: 'bench', channelName: 'hot' };
const WRITERS = 64;
const KEYS = Array.from({ length: WRITERS }, (_, i) => `writer-${i}`);
const LABELS = {
  rollcall: 'Rollcall',
  oneAtATime: 'WATCH/MULTI, one at a time in the process',
  watch: 'WATCH/MULTI, a connection for each writer',
};

const COLUMNS = [
  { key: 'opsPerSecond', label: 'updates/s' },
  { key: 'latencyP50', label: 'P50 ms', digits: 3 },
  { key: 'latencyP99', label: 'P99 ms', digits: 3 },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
];

/**
 * Each writer updates its own item repeatedly; the record must contain every acknowledged update.
 */
async function subject(env, open) {
  const control = connectIoredis(env);
  const client = await connectRollcall(env);
  const data = KEYS.map((key) => ({ key, value: 'at the beginning' }));
  await client.metadata.set({ ...CHANNEL, data });
  const update = await open(client);
  const revision = async () => (await client.metadata.get(CHANNEL)).majorRevision;
  return {
    run: async ({ writers, ms }) => {
      const before = await revision();
      const samples = new Samples();
      const found = await measure(control, async () => {
        const until = performance.now() + ms;
        let ops = 0;
        const write = async (key, writer) => {
          for (let i = 0; performance.now() < until; i++) {
            const since = performance.now();
            const { metadata } = await update(key, `value ${i} of ${key}`, writer);
            samples.add(performance.now() - since);
            if (metadata[key].value !== `value ${i} of ${key}`)
              throw new Error('not in the answer');
            ops++;
          }
        };
        await Promise.all(KEYS.slice(0, writers).map(write));
        return { ops };
      });
      if ((await revision()) - before !== found.ops) throw new Error('updates were lost');
      const [latencyP50, latencyP99] = [samples.percentile(0.5), samples.percentile(0.99)];
      return { ...found, latencyP50, latencyP99 };
    },
  };
}

export default {
  name: 'metadata',
  title: 'Metadata of one channel',
  about:
    `A record of ${WRITERS} items (about 4 KB); each update changes one of them, gets the whole record ` +
    'back, and is published. The scenario checks that no update is lost. Compared ' +
    'with an implementation on plain ioredis.',

  subjects: {
    rollcall: (env) =>
      subject(env, async (client) => (key, value) => {
        return client.metadata.update({ ...CHANNEL, data: [{ key, value }] });
      }),
    watch: (env) =>
      subject(env, async () => {
        const connections = KEYS.map(() => connectIoredis(env));
        return (key, value, writer) => updateOptimistically(connections[writer], key, value);
      }),
    oneAtATime: (env) =>
      subject(env, async () => {
        const baseline = new OneAtATime(connectIoredis(env));
        return (key, value) => baseline.update(key, value);
      }),
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const name of Object.keys(LABELS)) workers.push(await start(name));
    const runs = [1, WRITERS].flatMap((writers) =>
      workers.map((worker) => ({
        subject: `${worker.subject}${writers}`,
        run: (ms) => worker.call('run', { writers, ms: scale.ms(ms) }),
      })),
    );
    await interleave(runs, 1, ({ run }) => run(500));
    const results = await interleave(runs, scale.rounds(5), ({ run }) => run(1500));
    const rows = (writers) =>
      Object.entries(LABELS).map(([name, label]) => ({
        label,
        values: medians(results[name + writers]),
      }));
    const many = (name) => results[name + WRITERS];
    return {
      tables: [
        { title: `${WRITERS} writers in one process`, columns: COLUMNS, rows: rows(WRITERS) },
        { title: 'one writer', columns: COLUMNS, rows: rows(1) },
      ],
      targets: [
        atLeast(
          '7.8a',
          `metadata updates/s on one channel, ${WRITERS} writers, relative to WATCH/MULTI with one connection per writer`,
          10,
          ratio(many('rollcall'), many('watch'), 'opsPerSecond'),
          times,
        ),
        atMost(
          '7.8b',
          'median latency of one uncontended update, relative to WATCH/MULTI',
          1,
          ratio(results.rollcall1, results.oneAtATime1, 'latencyP50'),
          times,
        ),
      ],
      charts: [
        {
          title: `updates/s, ${WRITERS} writers`,
          series: ['updates/s'],
          groups: rows(WRITERS)
            .toReversed()
            .map(({ label, values }) => ({ label, values: [values.opsPerSecond] })),
        },
      ],
      notes: [
        `Over WATCH/MULTI one at a time, which only helps within one process, it is ${times(
          ratio(many('rollcall'), many('oneAtATime'), 'opsPerSecond'),
        )}; there, parsing 4 KB of JSON for each answer is what limits Rollcall.`,
      ],
      rounds: results,
    };
  },
};
