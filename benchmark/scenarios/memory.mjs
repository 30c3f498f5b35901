// Memory that 100 000 connections add to the process that holds them, and its growth over a million
// heartbeats (`--long`: ten million).
import { setTimeout as delay } from 'node:timers/promises';
import { connectRollcall } from '../lib/connect.mjs';
import { connIdOf, inParallel, STATE } from '../lib/population.mjs';
import { atMost, bytes, grouped, megabytes } from '../lib/targets.mjs';

const CONNECTIONS = 100_000;
const PER_ROOM = 10;
const IN_FLIGHT = 1000;

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
function beatAll(client, ids, count) {
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

export default {
  name: 'memory',
  title: `Memory of a process with ${grouped(CONNECTIONS)} connections`,
  about:
    `After garbage collection. Ids of 20 characters, states of ${JSON.stringify(STATE).length} ` +
    'bytes. What the program itself keeps, the ids, was there before.',

  subjects: {
    async holder(env) {
      const client = await connectRollcall(env);
      const ids = Array.from({ length: CONNECTIONS }, (_, i) => connIdOf(i));
      const join = (count) =>
        inParallel(64, count, (i) =>
          client.join({
            roomId: `room-${Math.floor(i / PER_ROOM)}`,
            userId: `user-${i}`,
            connId: ids[i],
            state: STATE,
            snapshot: false,
          }),
        );
      return {
        /** Warm-up: compiles code and fills pools. */
        async warmUp({ count }) {
          await join(count);
          await inParallel(64, count, (i) => client.leave(ids[i]));
          return memory();
        },
        async join() {
          await join(CONNECTIONS);
          return memory();
        },
        /** Heartbeats for all connections in order. */
        async heartbeat({ count }) {
          await beatAll(client, ids, count);
          return memory();
        },
        known: () => client.metrics().knownConnections,
      };
    },
  },

  async run({ start, scale, long }) {
    const worker = await start('holder');
    const before = await worker.call('warmUp', { count: 5000 });
    const after = await worker.call('join');
    const known = await worker.call('known');
    if (known !== CONNECTIONS) throw new Error(`it holds ${known} connections`);
    const each = ((after.resident - before.resident) * 2 ** 20) / CONNECTIONS;
    const warm = await worker.call('heartbeat', { count: scale.count(2_000_000) });
    const count = long ? 10_000_000 : 1_000_000;
    const late = await worker.call('heartbeat', { count });
    const grown = late.resident - warm.resident;
    const name = `${count / 1_000_000} million heartbeats`;
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
      notes: [`A connection adds ${bytes(each)}.`],
      targets: [
        atMost('7a', 'resident memory of one connection (mean of 100 000)', 300, each, bytes),
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
      rounds: { before, after, warm, late },
    };
  },
};
