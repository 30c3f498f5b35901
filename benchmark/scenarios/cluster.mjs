// Heartbeats on a Redis Cluster of three masters compared with one Redis: heartbeats per second,
// and the cost of each heartbeat for the servers and Node.js.
import { PresenceClient } from 'rollcall';
import { connectIoredis } from '../lib/connect.mjs';
import { gridCharts, gridTables } from '../lib/grid.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, TTL_MS } from '../lib/population.mjs';
import { ratio } from '../lib/statistics.mjs';
import { atLeast, atMost, times } from '../lib/targets.mjs';

const IN_FLIGHT = 1000;

/** On a cluster, one script call can refresh the connections of one room only. */
const CROWDS = [
  { key: 'large', title: '10 rooms with 100 users each', rooms: 10, perRoom: 100 },
  { key: 'medium', title: '100 rooms with 10 users each', rooms: 100, perRoom: 10 },
  { key: 'small', title: '1000 rooms with 2 users each', rooms: 1000, perRoom: 2 },
];

const LABELS = {
  v1: 'one Redis, layout v1',
  slotted: 'one Redis, layout slotted',
  cluster: 'Redis Cluster, three masters',
};

const COLUMNS = [
  { key: 'opsPerSecond', label: 'heartbeats/s' },
  { key: 'heartbeatLatencyP99', label: 'P99 ms' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'redisCpuPercent', label: 'Redis CPU %' },
];

async function heartbeater({ db, options: { url, ports, layout } }) {
  const control = ports.map((port) => connectIoredis({ port, db: 0 }));
  const client = await PresenceClient.connect({
    url: url ?? `redis://127.0.0.1:${ports[0]}/${db}`,
    ttlMs: TTL_MS,
    layout,
  });
  const crowds = new Map();
  for (const { key, ...crowd } of CROWDS) {
    const list = people({ ...crowd, prefix: key, first: 1 + crowds.size * 10_000 });
    await joinAll(client, list);
    crowds.set(key, list);
  }
  return {
    heartbeat: async ({ crowd, ms }) => {
      const list = crowds.get(crowd);
      const heartbeat = ({ connId, epoch }) => client.heartbeat({ connId, epoch });
      const result = await measure(control, () =>
        closedLoop(heartbeat, list, { inFlight: IN_FLIGHT, ms }),
      );
      await checkRefreshed(client, list, result);
      return result;
    },
  };
}

/** Checks that the heartbeats were applied: each connection was last seen within the round. */
async function checkRefreshed(client, list, { ops, seconds }) {
  const someone = list[(ops - 1) % list.length];
  const members = await client.fetchRoomSnapshot(someone.roomId);
  const { lastSeenMs } = members.find(({ connId }) => connId === someone.connId);
  const ago = Date.now() - lastSeenMs;
  if (!(ago < seconds * 1000 + 1000)) throw new Error(`last seen ${ago} ms ago: no heartbeat came`);
}

export default {
  name: 'cluster',
  title: 'Heartbeats on a Redis Cluster',
  about:
    `${IN_FLIGHT} in flight from one process. Redis CPU is that of all masters together, on the cores ` +
    'that this machine has: a cluster gains what a single Redis, which has one thread, cannot use.',

  subjects: { v1: heartbeater, slotted: heartbeater, cluster: heartbeater },

  async run({ start, openCluster, port, interleave, scale }) {
    const { url, masterPorts } = await openCluster();
    const workers = [
      await start('v1', { ports: [port], layout: 'v1' }),
      await start('slotted', { ports: [port], layout: 'slotted' }),
      await start('cluster', { url, ports: masterPorts, layout: 'slotted' }),
    ];
    const results = {};
    for (const { key } of CROWDS) {
      const round = (ms) => (worker) => worker.call('heartbeat', { crowd: key, ms: scale.ms(ms) });
      await interleave(workers, 1, round(400));
      results[key] = await interleave(workers, scale.rounds(5), round(1200));
    }
    return {
      tables: gridTables(CROWDS, LABELS, results, COLUMNS),
      targets: CROWDS.flatMap(({ key, title }) => {
        const { cluster, v1 } = results[key];
        return [
          atLeast(
            'cluster 5a',
            `heartbeats/s on three masters, relative to one Redis (${title})`,
            1,
            ratio(cluster, v1, 'opsPerSecond'),
            times,
          ),
          atMost(
            'cluster 5b',
            `Redis CPU per heartbeat on three masters, relative to one Redis (${title})`,
            1.3,
            ratio(cluster, v1, 'redisCpuMicros'),
            times,
          ),
        ];
      }),
      charts: gridCharts(CROWDS, LABELS, results, [
        ['heartbeats a second', 'opsPerSecond'],
        ['Redis CPU per heartbeat, µs', 'redisCpuMicros'],
      ]),
      rounds: results,
    };
  },
};
