// The benchmark runs: the cheapest scenario, quickly. No figure is looked at, only that there are
// some.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { endWithProcess, removeWithProcess } from '../support/process.js';

test('a quick run writes results, a chart and the summary', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-bench-out-'));
  const remove = removeWithProcess(folder);
  const program = path.resolve(import.meta.dirname, '../../benchmark/run.mjs');
  const args = [program, 'latency', '--quick', '--no-setup', `--out=${folder}`];
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
  expect(printed).toContain('bare EVALSHA through ioredis');

  const read = (name: string) => readFileSync(path.join(folder, name), 'utf8');
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
