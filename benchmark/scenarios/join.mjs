// Joins a room one by one until it has 2000 members.
import { AsWritten } from '../baselines/as-written.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, STATE, seed } from '../lib/population.mjs';
import { medians, ratio, Samples } from '../lib/statistics.mjs';
import { atMost, times } from '../lib/targets.mjs';

const SIZE = 2000;
/** Numbers of members at which joins are measured. */
const MARKS = [0, 500, 1000, 1950];
const MEASURED = 50;

const LABELS = {
  bare: 'Rollcall, snapshot: false',
  rollcall: 'Rollcall',
  baseline: 'Baseline (Current)',
};

const COLUMNS = [
  { key: 'ms', label: 'ms' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
];

async function joiner(env, open) {
  const control = connectIoredis(env);
  const { join, fill } = await open();
  let rooms = 0;
  return {
    /** Fills a new room; one result for each measured size. */
    run: async () => {
      const room = rooms++;
      const list = people({
        rooms: 1,
        perRoom: SIZE,
        prefix: `join${room}`,
        first: 1 + room * SIZE,
      });
      const results = {};
      let at = 0;
      for (const mark of MARKS) {
        await fill(list.slice(at, mark));
        at = mark + MEASURED;
        const took = new Samples(MEASURED);
        const result = await measure(control, async () => {
          for (const { roomId, userId, connId } of list.slice(mark, at)) {
            const since = performance.now();
            await join({ roomId, userId, connId, state: STATE });
            took.add(performance.now() - since);
          }
          return { ops: MEASURED };
        });
        results[mark] = { ...result, ms: took.percentile(0.5) };
      }
      return results;
    },
  };
}

function rollcall(env, options) {
  return joiner(env, async () => {
    const client = await connectRollcall(env);
    return {
      join: (joining) => client.join({ ...joining, ...options }),
      fill: (list) => joinAll(client, list),
    };
  });
}

export default {
  name: 'join',
  title: 'Joining a room that grows to 2000',
  about: `${MEASURED} joins, one at a time, from each number of members on; per join.`,

  subjects: {
    bare: (env) => rollcall(env, { snapshot: false }),
    rollcall: (env) => rollcall(env, {}),
    baseline: (env) =>
      joiner(env, async () => {
        const redis = connectIoredis(env);
        const service = new AsWritten(redis);
        return { join: (joining) => service.join(joining), fill: (list) => seed(redis, list) };
      }),
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    await interleave(workers, 1, (worker) => worker.call('run'));
    const results = await interleave(workers, scale.rounds(4), (worker) => worker.call('run'));
    // Fifty joins without a snapshot take six milliseconds, so many rounds are needed to compare
    // them.
    const again = workers.filter(({ subject }) => subject === 'bare');
    const many = await interleave(again, scale.rounds(30), (worker) => worker.call('run'));
    results.bare.push(...many.bare);
    const at = (subject, mark) => results[subject].map((round) => round[mark]);
    const last = MARKS.at(-1);
    return {
      tables: MARKS.map((mark) => ({
        title: `from ${mark} members on`,
        columns: COLUMNS,
        rows: Object.entries(LABELS).map(([subject, label]) => ({
          label,
          values: medians(at(subject, mark)),
        })),
      })),
      targets: [
        atMost(
          '5c',
          `join with snapshot: false: time at ${last} members, relative to an empty room`,
          1.15,
          ratio(at('bare', last), at('bare', 0), 'ms'),
          times,
        ),
        atMost(
          '5d',
          'join with snapshot: false: Redis CPU, same comparison',
          1.15,
          ratio(at('bare', last), at('bare', 0), 'redisCpuMicros'),
          times,
        ),
      ],
      charts: [
        {
          title: 'time per join, ms',
          series: Object.values(LABELS),
          groups: MARKS.map((mark) => ({
            label: `from ${mark} members on`,
            values: Object.keys(LABELS).map((subject) => medians(at(subject, mark)).ms),
          })),
        },
      ],
      rounds: results,
    };
  },
};
