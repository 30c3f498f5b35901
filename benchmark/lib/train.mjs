// Trains a zstd dictionary on states of all kinds of the corpus. The benchmark does not measure
// these states: `node benchmark/lib/train.mjs __test__/states/fixtures/states.dict`. Needs the
// `zstd` command.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KINDS, samplesOf } from './corpus.mjs';

const SAMPLES = 400;
const MAX_BYTES = 8 * 1024;

const [out] = process.argv.slice(2);
const dir = mkdtempSync(path.join(tmpdir(), 'rollcall-train-'));
try {
  const files = Object.keys(KINDS).flatMap((kind) =>
    samplesOf(kind, SAMPLES).map((state, i) => {
      const file = path.join(dir, `${kind}-${i}`);
      writeFileSync(file, JSON.stringify(state));
      return file;
    }),
  );
  execFileSync('zstd', ['-q', '-f', '--train', ...files, `--maxdict=${MAX_BYTES}`, '-o', out]);
} finally {
  rmSync(dir, { recursive: true });
}
