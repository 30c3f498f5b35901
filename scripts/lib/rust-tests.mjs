// Runs the Rust tests: those of the core, which builds without Node.js.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './paths.mjs';
import { readCargoTest, readNextest, readNextestList, sum, withExitCode } from './reports.mjs';
import { read, run, SetupError } from './run.mjs';

const CORE = ['--no-default-features'];

/**
 * Compiles the Rust tests separately from the run, because compilers may start daemons (a build
 * cache).
 */
export async function buildRustTests() {
  const { code } = await run('cargo', ['test', '--locked', ...CORE, '--no-run']);
  if (code !== 0) throw new SetupError(`building the Rust tests failed (exit code ${code}).`);
}

export async function runRustTests(env, filter = []) {
  if (read('cargo', ['nextest', '--version']) === undefined) {
    const tests = await run('cargo', ['test', ...CORE, '--no-fail-fast', '--', ...filter], {
      env,
      capture: true,
    });
    return withExitCode(readCargoTest(tests.output), tests.code, 'cargo test');
  }
  const list = ['nextest', 'list', ...CORE, '--run-ignored', 'only', '--message-format', 'json'];
  const ignored = readNextestList(read('cargo', list) ?? '{"rust-suites":{}}', ignoreReason);
  const tests = await run('cargo', ['nextest', 'run', ...CORE, ...filter], { env, capture: true });
  const ran = withExitCode(
    readNextest(tests.output, filter.length > 0 ? [] : ignored),
    tests.code,
    'cargo nextest',
  );
  if (filter.length > 0) return ran;
  // Nextest does not run the examples in doc comments.
  const docs = await run('cargo', ['test', ...CORE, '--doc'], { env, capture: true });
  return sum([ran, withExitCode(readCargoTest(docs.output), docs.code, 'cargo test --doc')]);
}

/** The text of `#[ignore = "…"]` before the function, which nextest does not report. */
function ignoreReason(testName) {
  const name = testName.split('::').at(-1);
  const pattern = new RegExp(
    `#\\[ignore = "([^"]*)"\\]\\s*(?:#\\[[^\\]]*\\]\\s*)*(?:async )?fn ${name}\\b`,
  );
  for (const folder of ['src', 'tests']) {
    for (const file of listFiles(inRoot(folder))) {
      const reason = pattern.exec(readFileSync(file, 'utf8'))?.[1];
      if (reason !== undefined) return reason;
    }
  }
  return undefined;
}

function listFiles(folder) {
  try {
    return readdirSync(folder, { recursive: true })
      .filter((name) => name.endsWith('.rs'))
      .map((name) => path.join(folder, name));
  } catch {
    return [];
  }
}
