// One heartbeat at a time: Rollcall compared with the same script call through ioredis.
import { PresenceClient } from 'rollcall';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { CROWD, heartbeaters } from '../lib/heartbeaters.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, TTL_MS } from '../lib/population.mjs';
import { argumentsOf, startRecorder } from '../lib/record.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atMost, times } from '../lib/targets.mjs';

const LABELS = {
  rollcall: 'Rollcall',
  bare: 'bare EVALSHA through ioredis',
  memory: 'Rollcall, in process: without Redis',
};

const COLUMNS = [
  { key: 'heartbeatLatencyP50', label: 'P50 ms', digits: 4 },
  { key: 'heartbeatLatencyP99', label: 'P99 ms', digits: 4 },
  { key: 'opsPerSecond', label: 'heartbeats/s' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
];

export default {
  name: 'latency',
  title: 'One heartbeat at a time',
  about:
    'Sequential heartbeats: by Rollcall, and as the EVALSHA that Rollcall sends for one. A heartbeat of the ' +
    'in-process store shows what the way from the JavaScript thread to the core and back takes.',

  subjects: {
    rollcall: heartbeaters.rollcall,
    async memory(env) {
      const client = await PresenceClient.connect({ url: 'memory://', ttlMs: TTL_MS });
      const list = people(CROWD);
      await joinAll(client, list);
      const control = connectIoredis(env);
      const heartbeat = ({ connId, epoch }) => client.heartbeat({ connId, epoch });
      return {
        heartbeat: (load) => measure(control, () => closedLoop(heartbeat, list, load)),
      };
    },
    async bare(env) {
      const recorder = await startRecorder(env.port);
      const client = await connectRollcall({ ...env, port: recorder.port });
      const list = people(CROWD);
      await joinAll(client, list);
      const calls = [];
      for (const { connId, epoch } of list) {
        const [command] = await recorder.record(() => client.heartbeat({ connId, epoch }));
        calls.push(argumentsOf(command).slice(1).map(String));
      }
      await client.close();
      recorder.stop();
      const redis = connectIoredis(env);
      const control = connectIoredis(env);
      return {
        heartbeat: (load) =>
          measure(control, () => closedLoop((args) => redis.evalsha(args), calls, load)),
      };
    },
  },

  async run({ start, interleave, scale }) {
    const workers = [await start('rollcall'), await start('bare'), await start('memory')];
    const runFor = (ms) => (worker) => worker.call('heartbeat', { inFlight: 1, ms: scale.ms(ms) });
    await interleave(workers, 1, runFor(500));
    const results = await interleave(workers, scale.rounds(7), runFor(1000));
    const rows = Object.entries(LABELS).map(([subject, label]) => ({
      label,
      values: medians(results[subject]),
    }));
    const compared = ratio(results.rollcall, results.bare, 'heartbeatLatencyP50');
    return {
      tables: [{ title: '1 in flight', columns: COLUMNS, rows }],
      targets: [
        atMost(
          '3a',
          'median heartbeat latency, 1 in flight, relative to a bare EVALSHA',
          1.15,
          compared,
          times,
        ),
      ],
      charts: [
        {
          title: 'median latency in µs',
          series: ['median latency'],
          groups: rows.map(({ label, values }) => ({
            label,
            values: [values.heartbeatLatencyP50 * 1000],
          })),
        },
      ],
      rounds: results,
    };
  },
};
