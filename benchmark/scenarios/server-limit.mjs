// The limit of the server: recorded script calls of the engine, sent over a raw socket without
// other work; and the share of that limit that Rollcall reaches with 1000 heartbeats in flight.
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { CROWD, heartbeaters } from '../lib/heartbeaters.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people } from '../lib/population.mjs';
import { startRecorder } from '../lib/record.mjs';
import { Replay } from '../lib/replay.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atLeast, percent } from '../lib/targets.mjs';

/** The number of heartbeats in flight. */
const ON_THE_WAY = 2048;

const COLUMNS = [
  { key: 'opsPerSecond', label: 'heartbeats/s' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'redisCpuPercent', label: 'Redis CPU %' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
];

export default {
  name: 'server-limit',
  title: 'The limit of the Redis server',
  about:
    'The script calls that the engine makes (lua/heartbeat_batch.lua), recorded, then replayed from ' +
    'memory with about 2000 heartbeats in flight.',

  subjects: {
    rollcall: heartbeaters.rollcall,
    async replay(env) {
      const control = connectIoredis(env);
      const replay = await Replay.open(env);
      const recorder = await startRecorder(env.port);
      const client = await connectRollcall({ ...env, port: recorder.port });
      const list = people(CROWD);
      await joinAll(client, list);
      const batches = new Map();
      return {
        /** Records batches of that size, until every connection is in at least one. */
        async record({ size }) {
          const rounds = Math.ceil((4 * list.length) / size);
          const commands = await recorder.record(async () => {
            for (let i = 0, at = 0; i < rounds; i++, at += size) {
              const items = Array.from({ length: size }, (_, j) => list[(at + j) % list.length]);
              await client.heartbeatMany(items.map(({ connId, epoch }) => ({ connId, epoch })));
            }
          });
          // The average number of heartbeats in one command; the engine chooses the batch sizes.
          batches.set(size, { commands, each: (rounds * size) / commands.length });
        },
        run({ size, ms }) {
          const { commands, each } = batches.get(size);
          const inFlight = Math.max(2, Math.round(ON_THE_WAY / each));
          return measure(control, async () => ({
            ops: (await replay.run(commands, { ms, inFlight })) * each,
          }));
        },
      };
    },
  },

  async run({ start, interleave, scale }) {
    const rollcall = await start('rollcall');
    const replay = await start('replay');
    const load = { inFlight: 1000, ms: scale.ms(1200) };
    await rollcall.call('heartbeat', load);
    const before = await rollcall.call('metrics');
    await rollcall.call('heartbeat', load);
    const after = await rollcall.call('metrics');
    const engine = Math.round(
      (after.heartbeats - before.heartbeats) / (after.heartbeatBatches - before.heartbeatBatches),
    );
    const sizes = [...new Set([64, 256, engine])];
    for (const size of sizes) {
      await replay.call('record', { size });
      await replay.call('run', { size, ms: scale.ms(300) });
    }
    const runs = [
      { subject: 'rollcall', run: () => rollcall.call('heartbeat', load) },
      ...sizes.map((size) => ({
        subject: `limit${size}`,
        run: () => replay.call('run', { size, ms: load.ms }),
      })),
    ];
    const results = await interleave(runs, scale.rounds(5), ({ run }) => run());
    const label = (size) =>
      `batches of ${size}${size === engine ? ' (the engine’s own size)' : ''}`;
    const rows = [
      { label: 'Rollcall, 1000 in flight', values: medians(results.rollcall) },
      ...sizes.map((size) => ({ label: label(size), values: medians(results[`limit${size}`]) })),
    ];
    const best = Math.min(
      ...sizes.map((size) => ratio(results.rollcall, results[`limit${size}`], 'opsPerSecond')),
    );
    return {
      tables: [{ title: 'The server’s limit, and Rollcall', columns: COLUMNS, rows }],
      targets: [
        atLeast(
          '1d',
          'heartbeats/s, 1000 in flight, relative to the limit of the server (best batch size)',
          0.95,
          best,
          percent,
        ),
      ],
      charts: [
        {
          title: 'heartbeats a second',
          series: ['heartbeats a second'],
          groups: rows.map((row) => ({ label: row.label, values: [row.values.opsPerSecond] })),
        },
      ],
      rounds: results,
    };
  },
};
