// Cost of presence in a Socket.IO server with 1000 sockets. Each socket sends one acknowledged
// heartbeat per second, and a fifth of the heartbeats patch the state. Compares Rollcall, the
// reference in plain TypeScript, and a handler that only acknowledges and emits to the room, which
// is the cost of Socket.IO itself.
import { createServer } from 'node:http';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { PresenceService, registerPresenceHandlers } from 'rollcall';
import { Server } from 'socket.io';
import { io as connectSocket } from 'socket.io-client';
import { compileReference } from '../../__test__/reference/compile.mjs';
import { connectIoredis } from '../lib/connect.mjs';
import { measure } from '../lib/measure.mjs';
import { inParallel, TTL_MS } from '../lib/population.mjs';
import { medians, ratio, Samples } from '../lib/statistics.mjs';
import { atMost, part, times } from '../lib/targets.mjs';

const SOCKETS = 1000;
const PER_ROOM = 10;
const PATCHES = 1 / 5;
const OPTIONS = { ttlMs: TTL_MS, reaperIntervalMs: 3000, reaperLookbackMs: 2 * TTL_MS };

const LABELS = {
  rollcall: 'Rollcall',
  reference: 'reference (plain TypeScript)',
  nothing: 'Socket.IO alone, without presence',
};

const COLUMNS = [
  { key: 'nodeCpuMs', label: 'Node CPU ms/s' },
  { key: 'jsThreadMs', label: 'JS thread ms/s' },
  { key: 'delayP99', label: 'event-loop delay P99 ms' },
  { key: 'redisCpuMs', label: 'Redis CPU ms/s' },
  { key: 'ackP50', label: 'ack P50 ms' },
  { key: 'ackP99', label: 'ack P99 ms' },
];

/** A server process; `serve` registers the handlers for its sockets. */
async function server(env, serve) {
  const control = connectIoredis(env);
  const http = createServer();
  const io = new Server(http);
  await serve(io, connectIoredis(env));
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  let round;
  let end;
  return {
    port: () => http.address().port,
    /** Measures until `finish` is called. */
    begin: () => {
      const delays = monitorEventLoopDelay({ resolution: 1 });
      round = measure(control, async () => {
        delays.enable();
        const ops = await new Promise((resolve) => {
          end = resolve;
        });
        delays.disable();
        // The delay of a timer of one millisecond, without that millisecond.
        return { ops, delayP99: delays.percentile(99) / 1e6 - 1 };
      });
      round.catch(() => {});
    },
    finish: async ({ ops }) => {
      end(ops);
      const result = await round;
      const perSecond = (micros) => (micros * result.ops) / 1000 / result.seconds;
      return {
        ...result,
        nodeCpuMs: perSecond(result.nodeCpuMicros),
        jsThreadMs: perSecond(result.jsThreadMicros),
        redisCpuMs: perSecond(result.redisCpuMicros),
      };
    },
  };
}

export default {
  name: 'swap',
  title: `A Socket.IO server with ${SOCKETS} sockets`,
  about: `A heartbeat of each socket every second, acknowledged; ${PATCHES * 100} % change the state; each change is emitted to the ${PER_ROOM} sockets of the room.`,

  subjects: {
    rollcall: (env) =>
      server(env, async (io, redis) => {
        const service = new PresenceService(redis, OPTIONS);
        registerPresenceHandlers({ io, redis }, service);
        await service.createSocketBridge(io);
        service.startReaper();
      }),
    reference: (env) =>
      server(env, async (io, redis) => {
        const folder = compileReference();
        const { ReferencePresenceService } = await import(`${folder}/service.js`);
        const { registerReferenceHandlers } = await import(`${folder}/handlers.js`);
        const service = new ReferencePresenceService(redis, OPTIONS);
        await registerReferenceHandlers(io, service);
        service.startReaper();
      }),
    nothing: (env) =>
      server(env, (io) => {
        io.on('connection', (socket) => {
          const self = { connId: socket.id, epoch: Date.now() };
          let place;
          socket.on('presence:join', ({ roomId, userId }, ack) => {
            place = { roomId, userId };
            socket.join(roomId);
            ack({ ok: true, snapshot: [], self });
          });
          socket.on('presence:heartbeat', ({ patchState, epoch }, ack) => {
            ack({ ok: true, changed: patchState !== undefined, epoch });
            if (patchState === undefined) return;
            const state = { mic: true, ...patchState };
            const event = { type: 'update', ...place, ...self, state, ts: Date.now() };
            io.local.to(place.roomId).emit('presence:event', event);
          });
        });
      }),

    /** The sockets of one server. */
    async sockets() {
      const sockets = [];
      let events = 0;
      let patches = 0;
      return {
        open: async ({ port }) => {
          await inParallel(50, SOCKETS, async (i) => {
            const socket = connectSocket(`http://127.0.0.1:${port}`, {
              transports: ['websocket'],
              forceNew: true,
            });
            socket.on('presence:event', () => events++);
            const { self } = await socket.emitWithAck('presence:join', {
              roomId: `room-${Math.floor(i / PER_ROOM)}`,
              userId: `user-${i}`,
              state: { mic: true, n: 0 },
            });
            sockets.push({ socket, epoch: self.epoch });
          });
        },
        heartbeat: async ({ ms }) => {
          const samples = new Samples(1 << 17);
          const total = Math.round((SOCKETS * ms) / 1000);
          const start = performance.now();
          const patchEvery = Math.round(1 / PATCHES);
          let sent = 0;
          let failed;
          const before = events;
          await new Promise((resolve) => {
            let acknowledged = 0;
            const tick = () => {
              const due = Math.min(total, ((performance.now() - start) / 1000) * SOCKETS);
              for (; sent < due; sent++) {
                const { socket, epoch } = sockets[sent % SOCKETS];
                // The sockets that patch change with each tick.
                const isPatch = (sent + Math.floor(sent / SOCKETS)) % patchEvery === 0;
                const since = performance.now();
                const payload = isPatch ? { epoch, patchState: { n: ++patches } } : { epoch };
                socket.emit('presence:heartbeat', payload, (ack) => {
                  samples.add(performance.now() - since);
                  if (ack.ok !== true || ack.changed !== isPatch) failed ??= JSON.stringify(ack);
                  if (++acknowledged === total) resolve();
                });
              }
              if (sent < total) setTimeout(tick, 2);
            };
            tick();
          });
          if (failed !== undefined) throw new Error(`a heartbeat was answered by ${failed}`);
          return {
            ops: total,
            heard: events - before,
            ackP50: samples.percentile(0.5),
            ackP99: samples.percentile(0.99),
          };
        },
      };
    },
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) {
      const worker = await start(subject);
      const sockets = await start('sockets');
      await sockets.call('open', { port: await worker.call('port') });
      workers.push({ subject, worker, sockets });
    }
    const round =
      (ms) =>
      async ({ worker, sockets }) => {
        await worker.call('begin');
        const load = await sockets.call('heartbeat', { ms });
        return { ...(await worker.call('finish', { ops: load.ops })), ...load };
      };
    await interleave(workers, 1, round(scale.ms(4000)));
    const results = await interleave(workers, scale.rounds(4), round(scale.ms(8000)));
    // The cost of Socket.IO itself is the same for both.
    for (const kind of ['rollcall', 'reference']) {
      for (const [i, result] of results[kind].entries()) {
        result.presenceCpuMs = result.nodeCpuMs - results.nothing[i].nodeCpuMs;
      }
    }
    const rows = Object.entries(LABELS).map(([subject, label]) => ({
      label,
      values: medians(results[subject]),
    }));
    const compared = (key) => ratio(results.rollcall, results.reference, key);
    return {
      tables: [{ title: `${SOCKETS} heartbeats a second`, columns: COLUMNS, rows }],
      targets: [
        atMost(
          'swap a',
          'Node CPU of a Socket.IO server, relative to the reference',
          1,
          compared('nodeCpuMs'),
          times,
        ),
        atMost(
          'swap b',
          'event-loop delay P99 of a Socket.IO server, relative to the reference',
          1,
          compared('delayP99'),
          times,
        ),
      ],
      notes: [
        `Without the cost of Socket.IO itself, presence takes ${part(compared('presenceCpuMs'))} the Node CPU of the reference.`,
      ],
      charts: [
        {
          title: 'Node CPU, ms a second',
          series: ['Node CPU'],
          groups: rows.map(({ label, values }) => ({ label, values: [values.nodeCpuMs] })),
        },
      ],
      rounds: results,
    };
  },
};
