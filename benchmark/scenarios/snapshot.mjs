// Reads a room of 100, 1000 and 5000 members: Rollcall compared with SMEMBERS and pipelined
// HGETALLs.
import { AsWritten } from '../baselines/as-written.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { gridCharts, gridTables } from '../lib/grid.mjs';
import { measure } from '../lib/measure.mjs';
import { people, seed } from '../lib/population.mjs';
import { ratio, Samples } from '../lib/statistics.mjs';
import { atMost, part } from '../lib/targets.mjs';

const SIZES = [100, 1000, 5000];
const CASES = SIZES.map((size) => ({ key: size, title: `${size} members` }));
const LABELS = { rollcall: 'Rollcall', baseline: 'HGETALL pipelined through ioredis' };

const COLUMNS = [
  { key: 'ms', label: 'ms' },
  { key: 'jsThreadMs', label: 'JS thread ms' },
  { key: 'nodeCpuMs', label: 'Node CPU ms' },
  { key: 'redisCpuMs', label: 'Redis CPU ms' },
];

async function reader(env, open) {
  const control = connectIoredis(env);
  for (const size of SIZES) {
    const room = { rooms: 1, perRoom: size, prefix: `size${size}`, first: size * 10 };
    await seed(control, people(room));
  }
  const read = await open();
  return {
    run: async ({ size, ms }) => {
      const took = new Samples(1 << 16);
      const result = await measure(control, async () => {
        const until = performance.now() + ms;
        do {
          const since = performance.now();
          const { length } = await read(`size${size}-0`);
          took.add(performance.now() - since);
          if (length !== size) throw new Error(`${length} of ${size} members`);
        } while (performance.now() < until);
        return { ops: took.count };
      });
      return {
        ...result,
        ms: took.percentile(0.5),
        jsThreadMs: result.jsThreadMicros / 1000,
        nodeCpuMs: result.nodeCpuMicros / 1000,
        redisCpuMs: result.redisCpuMicros / 1000,
      };
    },
  };
}

export default {
  name: 'snapshot',
  title: 'Snapshot of a room',
  about: 'One snapshot at a time, each member with a small state; per snapshot.',

  subjects: {
    rollcall: (env) =>
      reader(env, async () => {
        const client = await connectRollcall(env);
        return (roomId) => client.fetchRoomSnapshot(roomId);
      }),
    baseline: (env) =>
      reader(env, async () => {
        const service = new AsWritten(connectIoredis(env));
        return (roomId) => service.snapshot(roomId);
      }),
  },

  async run({ start, interleave, scale }) {
    const workers = [await start('rollcall'), await start('baseline')];
    const results = {};
    for (const size of SIZES) {
      const read = (ms) => (worker) => worker.call('run', { size, ms: scale.ms(ms) });
      await interleave(workers, 1, read(400));
      results[size] = await interleave(workers, scale.rounds(5), read(600));
    }
    const of1000 = (key) => ratio(results[1000].rollcall, results[1000].baseline, key);
    return {
      tables: gridTables(CASES, LABELS, results, COLUMNS),
      targets: [
        atMost(
          '5a',
          'snapshot of 1000 members: time, relative to HGETALL through ioredis',
          1 / 3,
          of1000('ms'),
          part,
        ),
        atMost(
          '5b',
          'snapshot of 1000 members: JavaScript-thread time, same comparison',
          1 / 8,
          of1000('jsThreadMicros'),
          part,
        ),
      ],
      charts: gridCharts(CASES, LABELS, results, [
        ['time per snapshot, ms', 'ms'],
        ['JavaScript-thread time per snapshot, ms', 'jsThreadMs'],
      ]),
      rounds: results,
    };
  },
};
