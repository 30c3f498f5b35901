// Channel metadata as RedisJSON documents compared with hashes: repeated changes of one item of
// records with 10, 100 and 1000 items. Uses a separate server with the module.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Redis } from 'ioredis';
import { PresenceClient } from 'rollcall';
import { locateRedis } from '../../scripts/lib/redis.mjs';
import { locateRedisJson } from '../../scripts/lib/redisjson.mjs';
import { gridCharts, gridTables } from '../lib/grid.mjs';
import { closedLoop } from '../lib/load.mjs';
import { measure } from '../lib/measure.mjs';
import { ratio } from '../lib/statistics.mjs';
import { atMost, times } from '../lib/targets.mjs';

const SIZES = [10, 100, 1000];
const CASES = SIZES.map((size) => ({ key: size, title: `${size} items` }));
const LABELS = { hash: 'hash', json: 'RedisJSON' };
const CHANNELS = 16;

const COLUMNS = [
  { key: 'opsPerSecond', label: 'changes/s' },
  { key: 'heartbeatLatencyP50', label: 'p50 ms' },
  { key: 'redisCpuMicros', label: 'Redis CPU µs' },
  { key: 'nodeCpuMicros', label: 'Node CPU µs' },
  { key: 'memoryKB', label: 'KB in Redis' },
];

async function changer(metadataStorage) {
  const found = locateRedisJson();
  if (!('file' in found)) throw new Error(found.why);
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-bench-json-'));
  const socket = path.join(folder, 'redis.sock');
  const server = spawn(
    locateRedis(),
    ['--port', '0', '--unixsocket', socket, '--save', '', '--loadmodule', found.file],
    { cwd: folder, stdio: 'ignore' },
  );
  process.once('exit', () => {
    server.kill('SIGKILL');
    rmSync(folder, { recursive: true, force: true });
  });
  const control = new Redis({ path: socket, retryStrategy: () => 20, maxRetriesPerRequest: null });
  await control.ping();
  const client = await PresenceClient.connect({ url: `redis+unix://${socket}`, metadataStorage });
  const channel = (size, i) => ({ channelType: `size${size}`, channelName: `${i}` });
  for (const size of SIZES) {
    for (let i = 0; i < CHANNELS; i++) {
      const data = Array.from({ length: size }, (_, k) => ({
        key: `item-${k}`,
        value: `value ${k} of a record`,
      }));
      await client.metadata.set({ ...channel(size, i), data });
    }
  }
  return {
    run: async ({ size, ms }) => {
      let n = 0;
      const channels = Array.from({ length: CHANNELS }, (_, i) => channel(size, i));
      const change = (one) =>
        client.metadata.update({
          ...one,
          data: [{ key: `item-${n++ % size}`, value: `new ${n}` }],
        });
      const result = await measure(control, () =>
        closedLoop(change, channels, { ms, inFlight: CHANNELS }),
      );
      const key = `prs:{chan:size${size}:0}:meta`;
      return { ...result, memoryKB: (await control.memory('USAGE', key, 'SAMPLES', 0)) / 1024 };
    },
  };
}

export default {
  name: 'metadata-json',
  title: 'Channel metadata: RedisJSON compared with the hash',
  about:
    `One item of a record changed again and again, on ${CHANNELS} channels, one change of each in ` +
    'flight; per change. Every change is answered with the whole record.',

  subjects: {
    hash: () => changer('hash'),
    json: () => changer('json'),
  },

  async run({ start, interleave, scale }) {
    const workers = [await start('hash'), await start('json')];
    const results = {};
    for (const size of SIZES) {
      const run = (ms) => (worker) => worker.call('run', { size, ms: scale.ms(ms) });
      await interleave(workers, 1, run(300));
      results[size] = await interleave(workers, scale.rounds(4), run(800));
    }
    return {
      tables: gridTables(CASES, LABELS, results, COLUMNS),
      targets: [
        atMost(
          'state 6',
          'change of one item of 1000: Redis CPU with RedisJSON, relative to the hash',
          1,
          ratio(results[1000].json, results[1000].hash, 'redisCpuMicros'),
          times,
        ),
      ],
      charts: gridCharts(CASES, LABELS, results, [['Redis CPU per change, µs', 'redisCpuMicros']]),
      rounds: results,
    };
  },
};
