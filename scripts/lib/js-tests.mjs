// Runs the JavaScript tests with vitest.
import { rmSync } from 'node:fs';
import path from 'node:path';
import { inRoot, packageBin } from './paths.mjs';
import { readVitest, withExitCode } from './reports.mjs';
import { run } from './run.mjs';

/**
 * Runs vitest.
 *
 * @param {Record<string, string>} env with TMPDIR, the folder of the run
 * @param {string[]} projects of vitest.config.mts; none: all of them
 * @param {string[]} args for vitest
 * @param {Parameters<typeof run>[2]} [options]
 */
export async function runJsTests(env, projects, args, options = {}) {
  const file = path.join(env.TMPDIR, 'vitest-tally.json');
  rmSync(file, { force: true });
  const { code } = await run(
    process.execPath,
    [
      packageBin('vitest', 'vitest'),
      'run',
      // A forgotten `test.only` fails the run.
      '--allowOnly=false',
      '--reporter=default',
      `--reporter=${inRoot('scripts', 'lib', 'vitest-reporter.mjs')}`,
      ...projects.flatMap((project) => ['--project', project]),
      ...args,
    ],
    { ...options, env: { ...env, ROLLCALL_TALLY_FILE: file } },
  );
  return withExitCode(readVitest(file), code, 'vitest');
}
