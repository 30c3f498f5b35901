// Codecs on the states of the corpus: size, write time and read time. Rollcall contains only two of
// the candidates. A separate program (benchmark/codecs) contains all of them; cargo builds it.
import { spawn, spawnSync } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { KINDS, statesOf } from '../lib/corpus.mjs';

const MANIFEST = inRoot('benchmark', 'codecs', 'Cargo.toml');
const TARGET = inRoot('target', 'codecs');

async function evaluate() {
  const args = ['build', '--release', '--locked', '--quiet', '--manifest-path', MANIFEST];
  const built = spawnSync('cargo', [...args, '--target-dir', TARGET], { stdio: 'inherit' });
  if (built.status !== 0) throw new Error('benchmark/codecs could not be built');
  const program = spawn(inRoot('target', 'codecs', 'release', 'rollcall-codecs'));
  for (const kind of Object.keys(KINDS)) {
    for (const state of statesOf(kind)) {
      program.stdin.write(`${JSON.stringify({ kind, state: JSON.stringify(state) })}\n`);
    }
  }
  program.stdin.end();
  const lines = (await text(program.stdout)).trim().split('\n');
  return lines.map((line) => JSON.parse(line));
}

export default {
  name: 'codecs',
  title: 'Codecs for states',
  about: 'The corpus (1.5 to 100 KB); saved: mean of the states; times: mean for one state.',
  subjects: { codecs: async () => ({ evaluate }) },

  async run({ start }) {
    const worker = await start('codecs');
    const rows = await worker.call('evaluate');
    const kinds = [...new Set(rows.map(({ kind }) => kind))];
    const of = (kind) => rows.filter((row) => row.kind === kind);
    return {
      tables: kinds.map((kind) => ({
        title: kind,
        columns: [
          { key: 'savedPercent', label: 'saved %' },
          { key: 'writeMicros', label: 'write µs' },
          { key: 'readMicros', label: 'read µs' },
        ],
        rows: of(kind).map(({ codec, saved, writeMicros, readMicros }) => ({
          label: codec,
          values: { savedPercent: saved * 100, writeMicros, readMicros },
        })),
      })),
      targets: [],
      charts: [
        {
          title: 'saved, %',
          series: kinds,
          groups: of(kinds[0]).map(({ codec }) => ({
            label: codec,
            values: kinds.map(
              (kind) => 100 * (of(kind).find((row) => row.codec === codec)?.saved ?? 0),
            ),
          })),
        },
      ],
      rounds: rows,
    };
  },
};
