// Memory that 100 000 connections add to the process that holds them, and its growth over a million
// heartbeats (`--long`: ten million). Memory that a connection takes in Redis.
import { setTimeout as delay } from 'node:timers/promises';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { connIdOf, inParallel, STATE } from '../lib/population.mjs';
import { atMost, bytes, grouped, megabytes } from '../lib/targets.mjs';

const CONNECTIONS = 100_000;
const PER_ROOM = 10;
const IN_FLIGHT = 1000;
/** Connections whose keys are measured in Redis. */
const IN_REDIS = 1000;
/** A state of 200 bytes. */
const LARGER_STATE = { ...STATE, document: 'doc-5f1c9a', note: 'x'.repeat(94) };

/** Memory in use after garbage collection. */
async function memory() {
  for (let i = 0; i < 4; i++) {
    globalThis.gc();
    await delay(150);
  }
  const { rss, heapUsed, heapTotal } = process.memoryUsage();
  const mb = (bytes) => bytes / 2 ** 20;
  return { resident: mb(rss), heap: mb(heapTotal), used: mb(heapUsed) };
}

/** A closed loop that keeps no samples: latency samples would add to the measured memory. */
function heartbeatAll(client, ids, count) {
  return new Promise((resolve, reject) => {
    let started = 0;
    let settled = 0;
    const next = () => {
      if (++settled === count) resolve();
      else if (started < count) start();
    };
    const start = () =>
      client.heartbeat({ connId: ids[started++ % ids.length] }).then(next, reject);
    while (started < Math.min(IN_FLIGHT, count)) start();
  });
}

async function holder(env, state) {
  const client = await connectRollcall(env);
  const ids = Array.from({ length: CONNECTIONS }, (_, i) => connIdOf(i));
  const joinFirst = (count) =>
    inParallel(64, count, (i) =>
      client.join({
        roomId: `room-${Math.floor(i / PER_ROOM)}`,
        userId: `user-${i}`,
        connId: ids[i],
        state,
        snapshot: false,
      }),
    );
  return {
    /** Warm-up: compiles code and fills pools. */
    async warmUp({ count }) {
      await joinFirst(count);
      await inParallel(64, count, (i) => client.leave(ids[i]));
      return memory();
    },
    async join({ count }) {
      await joinFirst(count);
      return memory();
    },
    /** Heartbeats for all connections in order. */
    async heartbeat({ count }) {
      await heartbeatAll(client, ids, count);
      return memory();
    },
    known: () => client.metrics().knownConnections,
  };
}

export default {
  name: 'memory',
  title: `Memory of a process with ${grouped(CONNECTIONS)} connections`,
  about:
    `After garbage collection. Ids of 20 characters, states of ${JSON.stringify(STATE).length} ` +
    'bytes. What the program itself keeps, the ids, was there before.',

  subjects: {
    holder: (env) => holder(env, STATE),
    larger: (env) => holder(env, LARGER_STATE),
    /** The memory of all keys of a database that has nothing else. */
    async redis(env) {
      const { join } = await holder(env, LARGER_STATE);
      const redis = connectIoredis(env);
      return {
        async measure() {
          await join({ count: IN_REDIS });
          const usage = {};
          for (const key of await redis.keys('*')) {
            const kind = key
              .replace(/\{room:[^}]*\}/, '{room}')
              .replace(/(conn|user|due):[^:]+/, '$1');
            usage[kind] = (usage[kind] ?? 0) + (await redis.memory('USAGE', key, 'SAMPLES', 0));
          }
          return usage;
        },
      };
    },
  },

  async run({ start, scale, long }) {
    const worker = await start('holder');
    const before = await worker.call('warmUp', { count: 5000 });
    const after = await worker.call('join', { count: CONNECTIONS });
    const known = await worker.call('known');
    if (known !== CONNECTIONS) throw new Error(`it holds ${known} connections`);
    const each = ((after.resident - before.resident) * 2 ** 20) / CONNECTIONS;
    const warm = await worker.call('heartbeat', { count: scale.count(2_000_000) });
    const count = long ? 10_000_000 : 1_000_000;
    const late = await worker.call('heartbeat', { count });
    const grown = late.resident - warm.resident;
    const name = `${count / 1_000_000} million heartbeats`;
    const larger = await start('larger');
    const base = await larger.call('warmUp', { count: 5000 });
    const filled = await larger.call('join', { count: CONNECTIONS });
    const eachLarger = ((filled.resident - base.resident) * 2 ** 20) / CONNECTIONS;
    const redis = await (await start('redis')).call('measure');
    const inRedis = Object.values(redis).reduce((sum, usage) => sum + usage, 0) / IN_REDIS;
    return {
      tables: [
        {
          title: 'Memory',
          columns: [
            { key: 'resident', label: 'resident MB' },
            { key: 'heap', label: 'JS heap MB' },
            { key: 'used', label: 'of it used MB' },
          ],
          rows: [
            { label: 'before', values: before },
            { label: `with ${grouped(CONNECTIONS)} connections`, values: after },
            { label: 'after the warm-up', values: warm },
            { label: `after ${name} more`, values: late },
          ],
        },
      ],
      notes: [
        `A connection adds ${bytes(each)}; with a state of ${JSON.stringify(LARGER_STATE).length} bytes, ${bytes(eachLarger)}.`,
        `In Redis it takes ${bytes(inRedis)} then (layout v1, rooms of ${PER_ROOM}): ${Object.entries(
          redis,
        )
          .sort(([, a], [, b]) => b - a)
          .map(([kind, usage]) => `${Math.round(usage / IN_REDIS)} in \`${kind}\``)
          .join(', ')}.`,
      ],
      targets: [
        atMost('7a', 'resident memory of one connection (mean of 100 000)', 300, each, bytes),
        atMost(
          '10a',
          'resident memory of one connection with a state of 200 bytes',
          450,
          eachLarger,
          bytes,
        ),
        atMost(
          '10b',
          'memory in Redis of one connection with a state of 200 bytes, rooms of 10, v1',
          1100,
          inRedis,
          bytes,
        ),
        atMost('7b', `growth of resident memory in ${name} after warm-up`, 1, grown, megabytes),
      ],
      charts: [
        {
          title: 'resident set, MB',
          series: ['resident set'],
          groups: [
            { label: 'before', values: [before.resident] },
            { label: `with ${grouped(CONNECTIONS)} connections`, values: [after.resident] },
            { label: `after ${name}`, values: [late.resident] },
          ],
        },
      ],
      rounds: { before, after, warm, late, base, filled, redis },
    };
  },
};
