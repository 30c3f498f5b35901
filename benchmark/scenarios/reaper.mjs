// One pass of the reaper over 10 000 rooms in which nothing is due, compared with one query for
// each room. reaping.mjs measures the cost of nodes that reap continuously.
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, TTL_MS } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atMost, grouped, part } from '../lib/targets.mjs';

const ROOMS = 10_000;
const PER_ROOM = 5;
const LABELS = { rollcall: 'reapOnce', asking: `${grouped(ROOMS)} × ZRANGEBYSCORE, pipelined` };

const COLUMNS = [
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'ms', label: 'ms' },
];

export default {
  name: 'reaper',
  title: 'A pass of the reaper, nothing due',
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
  },

  async run({ start, interleave, scale }) {
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
      rounds: results,
      tables: [{ title: 'One pass', columns: COLUMNS, rows }],
      targets: [
        atMost(
          '6.2',
          'Redis CPU of a reaper pass over 10 000 rooms, relative to 10 000 ZRANGEBYSCOREs (specification 6.2)',
          1 / 10,
          compared,
          part,
        ),
      ],
      charts: [
        {
          title: 'Redis CPU per pass, µs',
          series: ['Redis CPU'],
          groups: rows.map(({ label, values }) => ({ label, values: [values.redisCpuMicros] })),
        },
      ],
    };
  },
};
