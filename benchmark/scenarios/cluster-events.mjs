// Cost of events on a Redis Cluster. One node follows 10 of 1000 rooms and another changes states
// in all of them. Compares sharded with plain pub/sub: bytes between the servers, and CPU.
import { PresenceClient } from 'rollcall';
import { gridCharts, gridTables } from '../lib/grid.mjs';
import { openLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, STATE, TTL_MS } from '../lib/population.mjs';
import { ratio } from '../lib/statistics.mjs';
import { atMost, times } from '../lib/targets.mjs';

const ROOMS = 1000;
const FOLLOWED = 10;
const PER_SECOND = 4000;
const MODES = { sharded: 'sharded pub/sub', plain: 'plain pub/sub' };
const SHAPES = [
  { key: 'bare', title: 'three masters', replicas: 0 },
  { key: 'replicated', title: 'three masters, each with a replica', replicas: 1 },
];

const COLUMNS = [
  { key: 'busBytes', label: 'bus bytes/event' },
  { key: 'serversMicros', label: 'all servers’ CPU µs/event' },
  { key: 'nodeCpuMs', label: 'following node’s CPU ms/s' },
  { key: 'writerMicros', label: 'writing node’s CPU µs/event' },
];

/** The modes use different keys. */
const connect = ({ options: { url, pubsub } }) =>
  PresenceClient.connect({ url, pubsub, keyPrefix: `${pubsub}:prs:`, ttlMs: TTL_MS });

async function writer(env) {
  const client = await connect(env);
  const list = people({ rooms: ROOMS, perRoom: 1 });
  await joinAll(client, list);
  let n = 0;
  const change = ({ connId, epoch }) =>
    client.heartbeat({ connId, epoch, patchState: { ...STATE, n: n++ } });
  return {
    write: ({ ms }) => measure([], () => openLoop(change, list, { perSecond: PER_SECOND, ms })),
  };
}

async function follower(env) {
  const client = await connect(env);
  let received = 0;
  let round;
  let finish;
  for (let i = 0; i < FOLLOWED; i++) {
    const roomId = `room-${(i * ROOMS) / FOLLOWED}`;
    const count = ({ type }) => {
      if (type === 'update') received++;
    };
    await client.subscribe(count, { roomId });
  }
  return {
    listen: async () => {
      received = 0;
      const end = new Promise((resolve) => {
        finish = resolve;
      });
      round = measure([], async () => {
        await end;
        return { ops: received };
      });
      round.catch(() => {});
    },
    result: async ({ expected }) => {
      // All writes are acknowledged; events that have not arrived within a second are lost.
      for (let i = 0; received < expected && i < 100; i++) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      finish();
      const { ops, seconds, nodeCpuMicros } = await round;
      if (ops !== expected) throw new Error(`${ops} of ${expected} events arrived`);
      return { nodeCpuMs: (nodeCpuMicros * ops) / 1000 / seconds };
    },
  };
}

/** Runs the rounds of one cluster topology. */
async function measured({ replicas }, { start, openCluster, interleave, scale }) {
  const cluster = await openCluster({ replicas });
  const pairs = [];
  for (const pubsub of Object.keys(MODES)) {
    const options = { url: cluster.url, pubsub };
    pairs.push({
      subject: pubsub,
      write: await start('writer', options),
      follow: await start('follower', options),
    });
  }
  const total = (ms) => Math.round((PER_SECOND * ms) / 1000 / ROOMS) * ROOMS;
  const spent = async () => ({ cpu: await cluster.cpuMs(), bus: cluster.busBytes() });
  /** The idle cost of the bus and the servers, per millisecond. */
  const idle = async (ms) => {
    const before = await spent();
    await new Promise((resolve) => setTimeout(resolve, ms));
    const after = await spent();
    return { bus: (after.bus - before.bus) / ms, cpu: (after.cpu - before.cpu) / ms };
  };
  const round =
    (ms) =>
    async ({ write, follow }) => {
      const events = total(ms);
      const took = (events / PER_SECOND) * 1000;
      const nothing = await idle(2000);
      await follow.call('listen');
      const before = await spent();
      const { nodeCpuMicros, ops } = await write.call('write', { ms: took });
      const after = await spent();
      if (ops !== events) throw new Error(`${ops} of ${events} events were made`);
      const { nodeCpuMs } = await follow.call('result', {
        expected: (events / ROOMS) * FOLLOWED,
      });
      return {
        // The gossip in a round can be less than the idle average.
        busBytes: Math.max(0, (after.bus - before.bus - nothing.bus * took) / events),
        serversMicros: ((after.cpu - before.cpu - nothing.cpu * took) * 1000) / events,
        nodeCpuMs,
        writerMicros: nodeCpuMicros,
      };
    };
  await interleave(pairs, 1, round(scale.ms(1500)));
  return interleave(pairs, scale.rounds(3), round(scale.ms(5000)));
}

export default {
  name: 'cluster-events',
  title: `Events on a Redis Cluster, ${FOLLOWED} of ${ROOMS} rooms followed`,
  about:
    `${PER_SECOND} changes of states a second, each an event; the change itself is part of the servers’ ` +
    'CPU. The idle traffic and CPU of the servers is subtracted.',

  subjects: { writer, follower },

  async run(tools) {
    const results = {};
    for (const shape of SHAPES) results[shape.key] = await measured(shape, tools);
    return {
      tables: gridTables(SHAPES, MODES, results, COLUMNS),
      targets: SHAPES.flatMap(({ key, title }) => {
        const { sharded, plain } = results[key];
        return [
          atMost(
            'cluster 5c',
            `bytes on the cluster bus per event, sharded relative to plain pub/sub (${title})`,
            1,
            ratio(sharded, plain, 'busBytes'),
            times,
          ),
          atMost(
            'cluster 5d',
            `CPU of all servers per event, sharded relative to plain pub/sub (${title})`,
            1,
            ratio(sharded, plain, 'serversMicros'),
            times,
          ),
        ];
      }),
      charts: gridCharts(SHAPES, MODES, results, [
        ['Bytes on the bus per event', 'busBytes'],
        ['CPU of all servers per event, µs', 'serversMicros'],
      ]),
      rounds: results,
    };
  },
};
