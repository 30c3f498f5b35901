// Memory: what 100 000 connections add to the process that holds them, and whether it grows while
// they send a million heartbeats (`--long`: ten millions).
import { setTimeout as delay } from 'node:timers/promises';
import { connectRollcall } from '../lib/connect.mjs';
import { closedLoop } from '../lib/load.mjs';
import { connIdOf, inParallel, STATE } from '../lib/population.mjs';
import { atMost, bytes, megabytes } from '../lib/targets.mjs';

const CONNECTIONS = 100_000;
const PER_ROOM = 10;
const IN_FLIGHT = 1000;

/** The resident set when everything that can be given back has been. */
async function residentBytes() {
  for (let i = 0; i < 4; i++) {
    globalThis.gc();
    await delay(150);
  }
  return process.memoryUsage.rss();
}

const joining = (i, first) => ({
  roomId: `room-${Math.floor(i / PER_ROOM)}`,
  userId: `user-${first + i}`,
  connId: connIdOf(first + i),
  state: STATE,
  snapshot: false,
});

export default {
  name: 'memory',
  title: `Memory of a process with ${CONNECTIONS.toLocaleString('en')} connections`,
  about:
    'Resident set after garbage collection. Ids of 20 characters and states of 76 bytes; the ' +
    'program itself keeps none of them.',

  subjects: {
    async holder(env) {
      const client = await connectRollcall(env);
      // Ids are made when they are needed, so that only Rollcall keeps them.
      const join = (first, count) => inParallel(64, count, (i) => client.join(joining(i, first)));
      const leave = (first, count) =>
        inParallel(64, count, (i) => client.leave(connIdOf(first + i)));
      return {
        /** So that code is compiled and pools are filled. */
        async warmUp({ count }) {
          await join(1_000_000, count);
          await leave(1_000_000, count);
          return residentBytes();
        },
        async join() {
          await join(0, CONNECTIONS);
          return residentBytes();
        },
        /** Heartbeats for all in turn; ids are made as they are needed. */
        async beat({ count }) {
          let next = 0;
          const beat = () => client.heartbeat({ connId: connIdOf(next++ % CONNECTIONS) });
          await closedLoop(beat, [undefined], { inFlight: IN_FLIGHT, ops: count });
          return residentBytes();
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
    const each = (after - before) / CONNECTIONS;
    const warm = await worker.call('beat', { count: scale.count(500_000) });
    const count = long ? 10_000_000 : 1_000_000;
    const late = await worker.call('beat', { count });
    const grown = (late - warm) / 2 ** 20;
    const name = `${count / 1_000_000} million heartbeats`;
    const mb = (value) => ({ mb: value / 2 ** 20 });
    return {
      tables: [
        {
          title: 'Resident set',
          columns: [{ key: 'mb', label: 'MB' }],
          rows: [
            { label: 'before', values: mb(before) },
            { label: `with ${CONNECTIONS} connections`, values: mb(after) },
            { label: 'after the warm-up', values: mb(warm) },
            { label: `after ${name} more`, values: mb(late) },
          ],
        },
      ],
      notes: [`A connection adds ${bytes(each)}.`],
      targets: [
        atMost('7a', 'resident set that a connection adds, of 100 000', 300, each, bytes),
        atMost('7b', `growth of the resident set in ${name} after warm-up`, 1, grown, megabytes),
      ],
      charts: [
        {
          title: 'resident set, MB',
          series: ['resident set'],
          groups: [
            { label: 'before', values: [before / 2 ** 20] },
            { label: `with ${CONNECTIONS} connections`, values: [after / 2 ** 20] },
            { label: `after ${name}`, values: [late / 2 ** 20] },
          ],
        },
      ],
      rounds: { before, after, warm, late },
    };
  },
};
