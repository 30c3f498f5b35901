// Receiving events: the cost of one event for the JavaScript thread, with Rollcall and with
// ioredis's psubscribe and JSON.parse; and the cost for a client that follows only 10 of 1000 busy
// rooms. Another process publishes, evenly distributed over the rooms.
import { once } from 'node:events';
import { createConnection } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { connIdOf, STATE } from '../lib/population.mjs';
import { medians, ratio, Samples } from '../lib/statistics.mjs';
import { atMost, grouped, part, times } from '../lib/targets.mjs';

const ROOMS = 1000;
const FOLLOWED = 10;
const PER_SECOND = 20_000;
const LABELS = {
  all: 'Rollcall, all rooms',
  ioredis: 'ioredis psubscribe + JSON.parse',
  some: `Rollcall, ${FOLLOWED} of ${ROOMS} rooms`,
};

/** Events that are sent one after the other: each when the handler has had the one before. */
const ONE_BY_ONE = 2000;

const LATENCY_COLUMNS = [
  { key: 'heartbeatLatencyP50', label: 'P50 ms', digits: 3 },
  { key: 'heartbeatLatencyP99', label: 'P99 ms', digits: 3 },
  { key: 'jsThreadMicros', label: 'JS thread µs/event' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs/event' },
];

const COLUMNS = [
  { key: 'opsPerSecond', label: 'events/s' },
  { key: 'jsThreadMicros', label: 'JS thread µs/event' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs/event' },
  { key: 'jsThreadMs', label: 'JS thread ms/s' },
  { key: 'nodeCpuMs', label: 'Node CPU ms/s' },
];

const roomOf = (i) => `room-${i % ROOMS}`;

function eventOf(i) {
  return JSON.stringify({
    type: 'update',
    roomId: roomOf(i),
    userId: `user-${i}`,
    connId: connIdOf(i + 1),
    state: STATE,
    ts: Date.now(),
    epoch: Date.now(),
  });
}

const EVENT = eventOf(0);

function channelOf(roomId) {
  return `prs:{room:${roomId}}:events`;
}

/** Subscribes for one round only, so that the rounds of other subjects cost it nothing. */
async function listener(env, subscribe) {
  const control = connectIoredis(env);
  const publisher = connectIoredis(env);
  let finish;
  let round;
  return {
    /**
     * Publishes each event when the handler has had the one before, `pauseMs` later. The time counts from the
     * call that publishes it to the handler.
     */
    oneByOne: async ({ count, pauseMs }) => {
      const samples = new Samples();
      let heard;
      const unsubscribe = await subscribe(() => heard());
      const result = await measure(control, async () => {
        for (let i = 0; i < count; i++) {
          const arrived = new Promise((resolve) => {
            heard = resolve;
          });
          const since = performance.now();
          publisher.publish(channelOf(roomOf(0)), EVENT);
          await arrived;
          samples.add(performance.now() - since);
          if (pauseMs > 0) await sleep(pauseMs);
        }
        return {
          ops: count,
          heartbeatLatencyP50: samples.percentile(0.5),
          heartbeatLatencyP99: samples.percentile(0.99),
        };
      });
      await unsubscribe();
      return result;
    },
    listen: async ({ expected }) => {
      let received = 0;
      let heard;
      const all = new Promise((resolve) => {
        heard = resolve;
      });
      const unsubscribe = await subscribe((event) => {
        if (event.state.cursor.x === undefined) throw new Error('an unexpected event');
        if (++received === expected) heard();
      });
      finish = heard;
      round = measure(control, async () => {
        await all;
        return { ops: received };
      }).finally(unsubscribe);
      round.catch(() => {});
    },
    /**
     * Called after everything was published: events that have not arrived within a second are lost.
     */
    result: async ({ expected }) => {
      const timer = setTimeout(() => finish(), 1000);
      const result = await round;
      clearTimeout(timer);
      if (result.ops !== expected) throw new Error(`${result.ops} of ${expected} events came`);
      return {
        ...result,
        jsThreadMs: (result.jsThreadMicros * result.ops) / 1000 / result.seconds,
        nodeCpuMs: (result.nodeCpuMicros * result.ops) / 1000 / result.seconds,
      };
    },
  };
}

export default {
  name: 'events',
  title: `Events of ${ROOMS} rooms, ${grouped(PER_SECOND)} a second`,
  about: 'Update events with a small state; one handler, which reads the event.',

  subjects: {
    async publisher(env) {
      const socket = createConnection(env.port, '127.0.0.1');
      await once(socket, 'connect');
      socket.setNoDelay(true);
      socket.write('CLIENT REPLY OFF\r\n');
      const cell = new Int32Array(new SharedArrayBuffer(4));
      const events = Array.from({ length: ROOMS }, (_, i) => {
        const args = ['PUBLISH', channelOf(roomOf(i)), eventOf(i)];
        return `*3\r\n${args.map((arg) => `$${arg.length}\r\n${arg}\r\n`).join('')}`;
      });
      return {
        /** Evenly distributed over time too: events of many nodes do not arrive in bursts. */
        publish: async ({ total }) => {
          const start = performance.now();
          let sent = 0;
          for (let naps = 1; sent < total; naps++) {
            const elapsed = (performance.now() - start) / 1000;
            const due = Math.min(total, Math.ceil(elapsed * PER_SECOND));
            let text = '';
            while (sent < due) text += events[sent++ % ROOMS];
            if (text !== '') socket.write(text);
            // A timer would wait for a millisecond; nothing but the socket has to run here.
            Atomics.wait(cell, 0, 0, 0.02);
            if (naps % 16 === 0) await new Promise(setImmediate);
          }
        },
      };
    },
    async all(env) {
      const client = await connectRollcall(env);
      return listener(env, (handler) => client.subscribe(handler));
    },
    async some(env) {
      const client = await connectRollcall(env);
      return listener(env, async (handler) => {
        const unsubscribes = [];
        for (let i = 0; i < FOLLOWED; i++) {
          const roomId = roomOf((i * ROOMS) / FOLLOWED);
          unsubscribes.push(await client.subscribe(handler, { roomId }));
        }
        return () => Promise.all(unsubscribes.map((unsubscribe) => unsubscribe()));
      });
    },
    async ioredis(env) {
      const redis = connectIoredis(env);
      const pattern = 'prs:{room:*}:events';
      let onEvent;
      redis.on('pmessage', (_, channel, message) => {
        const event = JSON.parse(message);
        if (channelOf(event.roomId) === channel) onEvent(event);
      });
      return listener(env, async (handler) => {
        onEvent = handler;
        await redis.psubscribe(pattern);
        return () => redis.punsubscribe(pattern);
      });
    },
  },

  async run({ start, interleave, scale }) {
    const publisher = await start('publisher');
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    const round = (count) => async (worker) => {
      // Only complete cycles over the rooms, so that each room has the same number of events.
      const total = Math.ceil(count / ROOMS) * ROOMS;
      const expected = worker.subject === 'some' ? (total / ROOMS) * FOLLOWED : total;
      await worker.call('listen', { expected });
      await publisher.call('publish', { total });
      return worker.call('result', { expected });
    };
    await interleave(workers, 1, round(scale.count(20_000)));
    const results = await interleave(workers, scale.rounds(5), round(scale.count(40_000)));
    const listeners = workers.filter(({ subject }) => subject !== 'some');
    const latencies = {};
    for (const pauseMs of [0, 20]) {
      const count = scale.count(pauseMs === 0 ? ONE_BY_ONE : 100);
      const one = (worker) => worker.call('oneByOne', { count, pauseMs });
      await interleave(listeners, 1, one);
      latencies[pauseMs] = await interleave(listeners, scale.rounds(5), one);
    }
    const spent = (key) => ratio(results.some, results.all, key);
    return {
      tables: [
        {
          title: `${grouped(PER_SECOND)} events a second`,
          columns: COLUMNS,
          rows: Object.entries(LABELS).map(([subject, label]) => ({
            label,
            values: medians(results[subject]),
          })),
        },
        ...Object.entries(latencies).map(([pauseMs, values]) => ({
          title: `From PUBLISH to the handler, one event at a time, ${pauseMs} ms apart`,
          columns: LATENCY_COLUMNS,
          rows: listeners.map(({ subject }) => ({
            label: LABELS[subject],
            values: medians(values[subject]),
          })),
        })),
      ],
      targets: [
        atMost(
          'events 4',
          'median time from PUBLISH to the handler, one after the other, of ioredis',
          1.5,
          ratio(latencies[0].all, latencies[0].ioredis, 'heartbeatLatencyP50'),
          times,
        ),
        atMost(
          '6a',
          'JavaScript-thread time per event, relative to ioredis psubscribe with JSON.parse',
          1 / 3,
          ratio(results.all, results.ioredis, 'jsThreadMicros'),
          part,
        ),
        atMost(
          '6b',
          'JavaScript-thread time of a client that follows 10 of 1000 rooms, relative to one that follows all',
          1 / 8,
          spent('jsThreadMs'),
          part,
        ),
      ],
      charts: [
        {
          title: 'JavaScript-thread time per event, µs',
          series: ['JavaScript thread'],
          groups: ['all', 'ioredis'].map((subject) => ({
            label: LABELS[subject],
            values: [medians(results[subject]).jsThreadMicros],
          })),
        },
        {
          title: 'Node CPU, milliseconds a second',
          series: ['Node CPU'],
          groups: Object.keys(LABELS).map((subject) => ({
            label: LABELS[subject],
            values: [medians(results[subject]).nodeCpuMs],
          })),
        },
      ],
      rounds: { ...results, latencies },
    };
  },
};
