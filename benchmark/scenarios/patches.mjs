// Heartbeats with a patch of a small state, each with its event: Rollcall on both layouts, compared with a script
// that merges and publishes in one EVALSHA through ioredis, with plain JavaScript, and with the server's limit:
// Rollcall's own script calls, replayed over a raw socket.
import { AsWritten } from '../baselines/as-written.mjs';
import { Lua } from '../baselines/lua.mjs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { closedLoop, openLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people, seed } from '../lib/population.mjs';
import { startRecorder } from '../lib/record.mjs';
import { Replay } from '../lib/replay.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atLeast, atMost, micros, part, percent, times } from '../lib/targets.mjs';

const CROWD = { rooms: 100, perRoom: 10 };
const IN_FLIGHT = [1, 64, 256, 1000];
/** Sockets that move a cursor, each so many times a second. */
const CURSORS = { sockets: 64, perSecond: 20 };
/** Patches in one `heartbeatMany`, and in the calls that are replayed. */
const MANY = 128;
/** Patches that are in flight at all times while calls are replayed. */
const REPLAYED_IN_FLIGHT = 2048;

/** A state of 200 bytes. */
const STATE = {
  cursor: { x: 1_000_000, y: 348 },
  name: 'Ada Lovelace',
  color: '#2f6f4f',
  status: 'editing',
  mic: true,
  camera: false,
  document: { id: 'doc-5f1c9a', version: 1874, selection: [1204, 1377] },
  tool: 'pen',
};

const LABELS = {
  baseline: 'Baseline (Current)',
  lua: 'With Lua Scripts',
  rollcall: 'Rollcall',
  slotted: 'Rollcall, slotted',
};

const COLUMNS = [
  { key: 'opsPerSecond', label: 'patches/s' },
  { key: 'heartbeatLatencyP50', label: 'P50 ms' },
  { key: 'heartbeatLatencyP99', label: 'P99 ms' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'jsThreadMicros', label: 'JS thread µs' },
];

/** Patches cursors; each patch has a new value, so that each has its event. */
function patcher(env, list, heartbeat) {
  const control = connectIoredis(env);
  let x = 1_000_000;
  const patch = async ({ connId, roomId, epoch }) => {
    const patchState = { cursor: { x: ++x, y: 348 } };
    if (!(await heartbeat({ connId, roomId, epoch, patchState }))) throw new Error('not changed');
  };
  const cursors = list.slice(0, CURSORS.sockets);
  return {
    patch: (load) => measure(control, () => closedLoop(patch, list, load)),
    cursors: ({ ms }) =>
      measure(control, () =>
        openLoop(patch, cursors, { perSecond: CURSORS.sockets * CURSORS.perSecond, ms }),
      ),
  };
}

async function plain(env, open) {
  const redis = connectIoredis(env);
  const list = people(CROWD);
  await seed(redis, list, STATE);
  const service = await open(redis);
  return patcher(env, list, (options) => service.heartbeat(options));
}

async function rollcall(env, options) {
  const client = await connectRollcall(env, options);
  const list = people(CROWD);
  await joinAll(client, list, STATE);
  return {
    ...patcher(env, list, async ({ connId, epoch, patchState }) => {
      return (await client.heartbeat({ connId, epoch, patchState })).changed;
    }),
    ...many(env, client, list),
  };
}

/** The same patches as single calls and as `heartbeatMany`, each time waiting for all results. */
function many(env, client, list) {
  const control = connectIoredis(env);
  let x = 2_000_000;
  let at = 0;
  const next = () =>
    Array.from({ length: MANY }, () => {
      const { connId, epoch } = list[at++ % list.length];
      return { connId, epoch, patchState: { cursor: { x: ++x, y: 348 } } };
    });
  const run =
    (send) =>
    ({ ms }) =>
      measure(control, async () => {
        const until = performance.now() + ms;
        let ops = 0;
        for (; performance.now() < until; ops += MANY) {
          for (const result of await send(next())) if (result instanceof Error) throw result;
        }
        return { ops };
      });
  return {
    single: run((items) => Promise.all(items.map((item) => client.heartbeat(item)))),
    many: run((items) => client.heartbeatMany(items)),
  };
}

/** The calls that Rollcall makes of `heartbeatMany`, replayed: states change to and fro. */
async function replayed(env) {
  const control = connectIoredis(env);
  const replay = await Replay.open(env);
  const recorder = await startRecorder(env.port);
  const client = await connectRollcall({ ...env, port: recorder.port });
  const list = people(CROWD);
  await joinAll(client, list, STATE);
  const patchAll = async (x) => {
    for (let from = 0; from < list.length; from += MANY) {
      const some = list.slice(from, from + MANY);
      const patchState = { cursor: { x, y: 348 } };
      const items = some.map(({ connId, epoch }) => ({ connId, epoch, patchState }));
      for (const result of await client.heartbeatMany(items)) {
        if (!result.changed) throw new Error('not changed');
      }
    }
  };
  await patchAll(1_000_001);
  const commands = await recorder.record(async () => {
    await patchAll(1_000_002);
    await patchAll(1_000_001);
  });
  const each = (2 * list.length) / commands.length;
  return {
    replay: ({ ms }) =>
      measure(control, async () => {
        const inFlight = Math.max(2, Math.round(REPLAYED_IN_FLIGHT / each));
        return { ops: (await replay.run(commands, { ms, inFlight, whole: true })) * each };
      }),
  };
}

export default {
  name: 'patches',
  title: 'Heartbeats with a patch: 100 rooms with 10 users each',
  about:
    'Each heartbeat changes one key of a state of 200 bytes, and its event is published. There are no subscribers. ' +
    '“With Lua Scripts” merges by cjson and publishes in one EVALSHA. Times in µs are per patch.',

  subjects: {
    baseline: (env) => plain(env, (redis) => new AsWritten(redis)),
    lua: (env) => plain(env, (redis) => new Lua(redis, { publishes: true }).load()),
    rollcall: (env) => rollcall(env, {}),
    slotted: (env) => rollcall(env, { layout: 'slotted' }),
    replay: replayed,
  },

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const subject of Object.keys(LABELS)) workers.push(await start(subject));
    const replay = await start('replay');
    const ours = workers.find(({ subject }) => subject === 'rollcall');
    const results = {};
    for (const inFlight of IN_FLIGHT) {
      const run = (ms) => (worker) => worker.call('patch', { inFlight, ms: scale.ms(ms) });
      await interleave(workers, 1, run(400));
      results[inFlight] = await interleave(workers, scale.rounds(5), run(1200));
    }
    const turns = [
      { subject: 'rollcall', run: (ms) => ours.call('patch', { inFlight: 1000, ms }) },
      { subject: 'limit', run: (ms) => replay.call('replay', { ms }) },
      { subject: 'single', run: (ms) => ours.call('single', { ms }) },
      { subject: 'many', run: (ms) => ours.call('many', { ms }) },
    ];
    await interleave(turns, 1, ({ run }) => run(scale.ms(300)));
    const beside = await interleave(turns, scale.rounds(5), ({ run }) => run(scale.ms(1200)));
    const realtime = workers.filter(({ subject }) => subject !== 'baseline');
    const cursors = await interleave(realtime, scale.rounds(5), (worker) =>
      worker.call('cursors', { ms: scale.ms(3000) }),
    );
    const row = (values) => (subject) => ({
      label: LABELS[subject],
      values: medians(values[subject]),
    });
    const compare = (inFlight, other, key = 'opsPerSecond') =>
      ratio(results[inFlight].rollcall, results[inFlight][other], key);
    const at256 = medians(results[256].rollcall);
    return {
      tables: [
        ...IN_FLIGHT.map((inFlight) => ({
          title: `${inFlight} in flight`,
          columns: COLUMNS,
          rows: Object.keys(LABELS).map(row(results[inFlight])),
        })),
        {
          title: `${CURSORS.sockets} sockets, each ${CURSORS.perSecond} patches a second, open loop`,
          columns: COLUMNS,
          rows: realtime.map(({ subject }) => row(cursors)(subject)),
        },
        {
          title: 'The server’s limit, and heartbeatMany',
          columns: COLUMNS.filter(({ key }) => !key.startsWith('heartbeatLatency')),
          rows: [
            { label: 'Rollcall, 1000 in flight', values: medians(beside.rollcall) },
            { label: 'the same calls, replayed', values: medians(beside.limit) },
            { label: `${MANY} × heartbeat, then all results`, values: medians(beside.single) },
            { label: `heartbeatMany(${MANY})`, values: medians(beside.many) },
          ],
        },
      ],
      targets: [
        atLeast(
          'patches 1a',
          'patches/s, 256 in flight, of the Lua form',
          2,
          compare(256, 'lua'),
          times,
        ),
        atLeast(
          'patches 1b',
          'patches/s, 256 in flight, of the baseline',
          10,
          compare(256, 'baseline'),
          times,
        ),
        atLeast(
          'patches 1c',
          'patches/s, 1000 in flight, of the same calls when replayed',
          0.9,
          ratio(beside.rollcall, beside.limit, 'opsPerSecond'),
          percent,
        ),
        atMost('patches 1d', 'Redis CPU per patch, 256 in flight', 8, at256.redisCpuMicros, micros),
        atMost('patches 1e', 'Node CPU per patch, 256 in flight', 4, at256.nodeCpuMicros, micros),
        atMost(
          'patches 2a',
          'median latency, 1 in flight, of the Lua form',
          1.2,
          compare(1, 'lua', 'heartbeatLatencyP50'),
          times,
        ),
        atMost(
          'patches 2b',
          'P99 of the acknowledgement, 64 cursors, of the Lua form',
          1.5,
          ratio(cursors.rollcall, cursors.lua, 'heartbeatLatencyP99'),
          times,
        ),
        atMost(
          'patches 2c',
          'Node CPU, 64 cursors, of the Lua form',
          0.25,
          ratio(cursors.rollcall, cursors.lua, 'nodeCpuMicros'),
          part,
        ),
        atMost(
          'patches 3',
          `JavaScript-thread time of heartbeatMany(${MANY}) with patches, of single calls`,
          0.5,
          ratio(beside.many, beside.single, 'jsThreadMicros'),
          part,
        ),
      ],
      charts: [
        {
          title: 'patches per second',
          series: Object.values(LABELS),
          groups: IN_FLIGHT.map((inFlight) => ({
            label: `${inFlight} in flight`,
            values: Object.keys(LABELS).map(
              (subject) => medians(results[inFlight][subject]).opsPerSecond,
            ),
          })),
        },
      ],
      rounds: { ...results, beside, cursors },
    };
  },
};
