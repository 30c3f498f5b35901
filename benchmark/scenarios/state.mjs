// Large states: the cost of a heartbeat without a patch for a state of 60 KB and one of 100 bytes,
// and the Redis memory of the states of the corpus, by storage and codec.
import { readFileSync } from 'node:fs';
import { connectIoredis, connectRollcall } from '../lib/connect.mjs';
import { canvasOf, KINDS, statesOf } from '../lib/corpus.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { joinAll, people } from '../lib/population.mjs';
import { medians, ratio } from '../lib/statistics.mjs';
import { atLeast, atMost, percent, times } from '../lib/targets.mjs';
import { bytesOf } from '../lib/wire.mjs';

const CROWD = { rooms: 10, perRoom: 10 };
const IN_FLIGHT = 256;
const SMALL = { status: 'x'.repeat(80) };
const BIG = canvasOf(60_000);

/**
 * One dictionary for all kinds, trained on states outside the corpus (`benchmark/lib/train.mjs`).
 */
const DICTIONARY = readFileSync(
  new URL('../../__test__/states/fixtures/states.dict', import.meta.url),
);

const STORAGES = {
  inline: {},
  separate: { stateStorage: 'separate' },
};
const FORMS = {
  'inline, gzip': { stateCompression: { codec: 'gzip' } },
  'separate, zstd': { stateStorage: 'separate', stateCompression: { codec: 'zstd' } },
  'separate, zstd, own dictionary': {
    stateStorage: 'separate',
    stateCompression: { codec: 'zstd', dictionaries: [DICTIONARY] },
  },
};
const SIZES = { small: SMALL, big: BIG };

const COLUMNS = [
  { key: 'opsPerSecond', label: 'heartbeats/s' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'bytes', label: 'bytes on the wire' },
];

async function beater(env, options, state) {
  const control = connectIoredis(env);
  const client = await connectRollcall(env, options);
  const list = people(CROWD);
  await joinAll(client, list, state);
  return {
    heartbeat: async ({ ms }) => {
      const before = await bytesOf(control);
      const heartbeat = ({ connId, epoch }) => client.heartbeat({ connId, epoch });
      const result = await measure(control, () =>
        closedLoop(heartbeat, list, { ms, inFlight: IN_FLIGHT }),
      );
      return { ...result, bytes: ((await bytesOf(control)) - before) / result.ops };
    },
  };
}

/** `MEMORY USAGE` of every key of one connection: its hash, and the key of its state. */
async function memoryOf(env, options, state) {
  const control = connectIoredis(env);
  const client = await connectRollcall(env, options);
  await client.join({ roomId: 'r', userId: 'u', connId: 'c', state, snapshot: false });
  let bytes = 0;
  // MEMORY USAGE samples five fields of a hash by default and can miss the state, so all are
  // sampled.
  for (const key of await control.keys('prs:conn:c*')) {
    bytes += await control.memory('USAGE', key, 'SAMPLES', 0);
  }
  await client.leave('c');
  await client.close();
  control.disconnect();
  return bytes;
}

const subjects = {
  memory: async (env) => ({
    of: async ({ form, kind }) => {
      const used = [];
      for (const state of statesOf(kind)) {
        used.push([JSON.stringify(state).length, await memoryOf(env, FORMS[form] ?? {}, state)]);
      }
      return used;
    },
  }),
};
for (const [storage, options] of Object.entries(STORAGES)) {
  for (const [size, state] of Object.entries(SIZES)) {
    subjects[`${storage} ${size}`] = (env) => beater(env, options, state);
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

export default {
  name: 'state',
  title: 'Large states: heartbeats and memory',
  about:
    `Heartbeats without a patch, ${IN_FLIGHT} in flight, with states of 100 bytes and of 60 KB. ` +
    'Memory: MEMORY USAGE of all keys of a connection, for the states of the corpus (1.5 to 100 KB); ' +
    'its share of the keys of its room and user comes on top, and is the same in all forms. The own ' +
    'dictionary is of 8 KB, trained on 400 other states of each kind.',
  subjects,

  async run({ start, interleave, scale }) {
    const workers = [];
    for (const storage of Object.keys(STORAGES)) {
      for (const size of Object.keys(SIZES)) workers.push(await start(`${storage} ${size}`));
    }
    const runFor = (ms) => (worker) => worker.call('heartbeat', { ms: scale.ms(ms) });
    await interleave(workers, 1, runFor(500));
    const results = await interleave(workers, scale.rounds(7), runFor(800));
    const grows = (storage, key) =>
      ratio(results[`${storage} big`], results[`${storage} small`], key);

    const memory = await start('memory');
    const saved = {};
    for (const kind of Object.keys(KINDS)) {
      const plain = await memory.call('of', { form: 'plain', kind });
      saved[kind] = {};
      for (const form of Object.keys(FORMS)) {
        const less = await memory.call('of', { form, kind });
        saved[kind][form] = mean(less.map(([, bytes], i) => 1 - bytes / plain[i][1]));
      }
    }
    return {
      tables: [
        {
          title: 'Heartbeats without a patch',
          columns: COLUMNS,
          rows: Object.keys(results).map((label) => ({ label, values: medians(results[label]) })),
        },
        {
          title: 'Memory saved, of all keys of a connection, %',
          columns: Object.keys(FORMS).map((form) => ({ key: form, label: form })),
          rows: Object.entries(saved).map(([kind, forms]) => ({
            label: kind,
            values: Object.fromEntries(
              Object.entries(forms).map(([form, part]) => [form, part * 100]),
            ),
          })),
        },
      ],
      targets: [
        ...Object.entries(saved).flatMap(([kind, forms], i) =>
          ['separate, zstd', 'separate, zstd, own dictionary'].map((form, j) =>
            atLeast(
              `state 1${'abcd'[i]}${j === 0 ? '' : ', own'}`,
              `Redis memory saved, ${form}: ${kind}`,
              0.6,
              forms[form],
              percent,
            ),
          ),
        ),
        ...Object.keys(STORAGES).flatMap((storage, i) =>
          [
            ['redisCpuMicros', 'Redis CPU'],
            ['nodeCpuMicros', 'Node CPU'],
            ['bytes', 'bytes on the wire'],
          ].map(([key, what], j) =>
            atMost(
              `state 2${'abcdef'[3 * i + j]}`,
              `heartbeat with a state of 60 KB, relative to a state of 100 bytes, ${storage}: ${what}`,
              1.1,
              grows(storage, key),
              times,
            ),
          ),
        ),
      ],
      charts: [
        {
          title: 'memory saved, %',
          series: Object.keys(FORMS),
          groups: Object.entries(saved).map(([kind, forms]) => ({
            label: kind,
            values: Object.values(forms).map((part) => part * 100),
          })),
        },
      ],
      rounds: { results, saved },
    };
  },
};
