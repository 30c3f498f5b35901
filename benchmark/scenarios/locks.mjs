// Locks: the time from a release to the next grant in another process, and the cost of an
// uncontended lock. Compared with a common hand-written lock: SET NX, a compare-and-delete script,
// and a retry every 50 ms.
import { setTimeout as delay } from 'node:timers/promises';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { median, medians, ratio } from '../lib/statistics.mjs';
import { atLeast, atMost, part, times } from '../lib/targets.mjs';

/** Contenders run in separate processes and share this database. */
const MEETING_DB = 63;
/** Uncontended locks that are acquired and released at a time. */
const IN_FLIGHT = [1, 64];
const TTL_MS = 10_000;
const RETRY_MS = 50;
const LABELS = { rollcall: 'Rollcall', polling: `SET NX, again every ${RETRY_MS} ms` };

const COMPARE_AND_DELETE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`;

const milliseconds = (value) => `${value.toFixed(2)} ms`;

/** The system's monotonic clock in ms: the same in all processes. */
const now = () => Number(process.hrtime.bigint()) / 1e6;

/**
 * The methods of both subjects. `open` acquires the lock and returns a function that releases it.
 */
async function contender(env, open) {
  const control = connectIoredis(env);
  const alone = await open(env);
  const shared = await open({ ...env, db: MEETING_DB });
  return {
    /** Acquires the lock repeatedly, and holds it for 2 ms each time. */
    contend: async ({ until }) => {
      const held = [];
      while (now() < until) {
        const release = await shared('handoff');
        const granted = now();
        await delay(2);
        const released = now();
        held.push([granted, released]);
        await release();
      }
      return held;
    },
    clock: now,
    /** `inFlight` locks without contention: each is acquired and released repeatedly. */
    uncontended: ({ ms, inFlight }) =>
      measure(control, async () => {
        const end = performance.now() + ms;
        const times = [];
        const take = async (name) => {
          let last = performance.now();
          while (last < end) {
            await (await alone(name))();
            const done = performance.now();
            times.push(done - last);
            last = done;
          }
        };
        await Promise.all(Array.from({ length: inFlight }, (_, i) => take(`alone-${i}`)));
        return { ops: times.length, pairP50: median(times) };
      }),
  };
}

/** The times from each release to the next grant in another process. */
function handoffs(lists) {
  const all = lists
    .flatMap((list, of) => list.map(([granted, released]) => ({ of, granted, released })))
    .sort((a, b) => a.granted - b.granted);
  return all.flatMap(({ of, granted }, i) => {
    const before = all[i - 1];
    return before !== undefined && before.of !== of ? [granted - before.released] : [];
  });
}

export default {
  name: 'locks',
  title: 'Locks',
  about:
    'Two processes take turns at one lock, which each holds for 2 ms: the time from the call of release ' +
    'to the other’s grant. Without contention: acquire and release, one after the other.',

  subjects: {
    rollcall: (env) =>
      contender(env, async (of) => {
        const client = await connectRollcall(of);
        return async (name) => {
          const lock = await client.locks.acquire(name, {
            ownerId: 'bench',
            ttlMs: TTL_MS,
            waitMs: 60_000,
          });
          return () => lock.release();
        };
      }),
    polling: (env) =>
      contender(env, async (of) => {
        const redis = connectIoredis(of);
        redis.defineCommand('unlock', { numberOfKeys: 1, lua: COMPARE_AND_DELETE });
        let numbers = 0;
        return async (name) => {
          const proof = `${process.pid}-${++numbers}`;
          while ((await redis.set(name, proof, 'PX', TTL_MS, 'NX')) === null) await delay(RETRY_MS);
          return () => redis.unlock(name, proof);
        };
      }),
  },

  async run({ start, interleave, scale }) {
    const pairs = {};
    for (const subject of Object.keys(LABELS)) {
      pairs[subject] = [await start(subject), await start(subject)];
    }
    const subjects = Object.keys(LABELS).map((subject) => ({ subject }));
    const handoff =
      (ms) =>
      async ({ subject }) => {
        const [first, second] = pairs[subject];
        const until = (await first.call('clock')) + ms;
        const lists = await Promise.all(
          [first, second].map((one) => one.call('contend', { until })),
        );
        const times = handoffs(lists).sort((a, b) => a - b);
        return {
          handoffP50: median(times),
          handoffP99: times[Math.floor(times.length * 0.99)],
          turns: times.length / (ms / 1000),
        };
      };
    const uncontended =
      (ms, inFlight) =>
      ({ subject }) =>
        pairs[subject][0].call('uncontended', { ms, inFlight });
    await interleave(subjects, 1, handoff(scale.ms(500)));
    const passed = await interleave(subjects, scale.rounds(5), handoff(scale.ms(2000)));
    const taken = {};
    for (const inFlight of IN_FLIGHT) {
      await interleave(subjects, 1, uncontended(scale.ms(300), inFlight));
      taken[inFlight] = await interleave(
        subjects,
        scale.rounds(5),
        uncontended(scale.ms(1000), inFlight),
      );
    }
    const rows = (results) =>
      Object.entries(LABELS).map(([subject, label]) => ({
        label,
        values: medians(results[subject]),
      }));
    return {
      tables: [
        {
          title: 'two processes take turns',
          columns: [
            { key: 'handoffP50', label: 'release to grant P50 ms', digits: 2 },
            { key: 'handoffP99', label: 'P99 ms', digits: 2 },
            { key: 'turns', label: 'changes of holder/s' },
          ],
          rows: rows(passed),
        },
        ...IN_FLIGHT.map((inFlight) => ({
          title: `without contention, ${inFlight} at a time`,
          columns: [
            { key: 'pairP50', label: 'acquire + release P50 ms', digits: 3 },
            { key: 'opsPerSecond', label: 'pairs/s' },
            { key: 'jsThreadMicros', label: 'JS thread µs' },
            { key: 'nodeCpuMicros', label: 'Node CPU µs' },
            { key: 'redisCpuMicros', label: 'Redis CPU µs' },
          ],
          rows: rows(taken[inFlight]),
        })),
      ],
      targets: [
        atMost(
          'locks a',
          'median time from a release to the next grant in another process',
          10,
          medians(passed.rollcall).handoffP50,
          milliseconds,
        ),
        atMost(
          'locks b',
          'the same, relative to a retry every 50 ms',
          1,
          ratio(passed.rollcall, passed.polling, 'handoffP50'),
          part,
        ),
        ...IN_FLIGHT.flatMap((inFlight) => [
          atLeast(
            'locks c',
            `pairs of acquire and release a second, ${inFlight} at a time, relative to SET NX`,
            1,
            ratio(taken[inFlight].rollcall, taken[inFlight].polling, 'opsPerSecond'),
            times,
          ),
          atMost(
            'locks d',
            `Node CPU of a pair, ${inFlight} at a time, relative to SET NX`,
            1,
            ratio(taken[inFlight].rollcall, taken[inFlight].polling, 'nodeCpuMicros'),
            part,
          ),
        ]),
      ],
      charts: [
        {
          title: 'release to grant, median in ms',
          series: ['release to grant'],
          groups: rows(passed).map(({ label, values }) => ({ label, values: [values.handoffP50] })),
        },
      ],
      rounds: { handoff: passed, uncontended: taken },
    };
  },
};
