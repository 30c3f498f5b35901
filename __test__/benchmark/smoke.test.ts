// Runs the shortest benchmark scenarios. The test checks that figures exist, not their values.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { endWithProcess, removeWithProcess } from '../support/process.js';

/** Runs a scenario with --quick; returns its output and a function that reads its result files. */
async function quickly(scenario: string) {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-bench-out-'));
  const remove = removeWithProcess(folder);
  const program = path.resolve(import.meta.dirname, '../../benchmark/run.mjs');
  const args = [program, scenario, '--quick', '--no-setup', `--out=${folder}`];
  const run = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  endWithProcess(run);
  let printed = '';
  for (const stream of [run.stdout, run.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      printed += text;
    });
  }
  const [code] = await once(run, 'close');
  expect(code, printed).toBe(0);
  const read = (name: string) => readFileSync(path.join(folder, name), 'utf8');
  return { printed, read, remove };
}

test('a quick run of patches has a figure for each form and number in flight', async () => {
  const { read, remove } = await quickly('patches');
  const { tables, rounds } = JSON.parse(read('patches.json'));
  expect(tables.map(({ title }: { title: string }) => title)).toEqual([
    ...[1, 64, 256, 1000].map((inFlight) => `${inFlight} in flight`),
    '64 sockets, each 20 patches a second, open loop',
    'The server’s limit, and heartbeatMany',
  ]);
  for (const inFlight of [1, 64, 256, 1000]) {
    for (const subject of ['baseline', 'lua', 'rollcall', 'slotted']) {
      expect(rounds[inFlight][subject][0].opsPerSecond).toBeGreaterThan(0);
    }
  }
  for (const subject of ['lua', 'rollcall', 'slotted']) {
    expect(rounds.cursors[subject][0].opsPerSecond).toBeGreaterThan(0);
  }
  for (const subject of ['rollcall', 'limit', 'single', 'many']) {
    expect(rounds.beside[subject][0].opsPerSecond).toBeGreaterThan(0);
  }
  remove();
});

test('a quick run writes results, a chart and the summary', async () => {
  const { printed, read, remove } = await quickly('latency');
  expect(printed).toContain('bare EVALSHA through ioredis');

  const result = JSON.parse(read('latency.json'));
  expect(result).toMatchObject({
    scenario: 'latency',
    quick: true,
    command: 'npm run bench -- latency --quick',
    machine: { cores: expect.any(Number), server: expect.stringMatching(/^(Redis|Valkey) \d/) },
    rounds: { rollcall: [expect.any(Object)], bare: [expect.any(Object)] },
  });
  const targets = [
    {
      item: '3a',
      what: expect.any(String),
      target: '≤ 1.15 ×',
      measured: expect.stringMatching(/^[\d.]+ ×$/),
      value: expect.any(Number),
      met: expect.any(Boolean),
    },
  ];
  expect(result.targets).toEqual(targets);
  const summary = JSON.parse(read('summary.json'));
  expect(summary.targets).toMatchObject(targets);
  expect(read('latency.svg')).toMatch(/^<svg [\s\S]*<rect [\s\S]*<\/svg>\n$/);
  remove();
});
