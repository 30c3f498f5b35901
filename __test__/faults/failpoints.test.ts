// The failpoints: only the addon of the fault tests contains them, and each is in use.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { testAddon } from '../../scripts/lib/build.mjs';
import { inRoot, readJson } from '../../scripts/lib/paths.mjs';

const TRACES = [
  'ROLLCALL_TEST_DEFENCES_OFF',
  'testDefencesOff',
  'testCrashIn',
  'a test asked for a panic',
];

test('the published addon has no failpoints, that of the fault tests has', () => {
  const published = readdirSync(inRoot('binding')).filter((name) => name.endsWith('.node'));
  expect(published).toHaveLength(1);
  const binary = readFileSync(inRoot('binding', published[0] ?? ''));
  const ofTests = readFileSync(testAddon());
  for (const trace of TRACES) {
    expect(binary.includes(trace), trace).toBe(false);
    expect(ofTests.includes(trace), trace).toBe(true);
  }
  expect(readFileSync(inRoot('binding', 'binding.d.ts'), 'utf8')).not.toContain('testDefencesOff');
});

test('no package contains the addon of the fault tests', () => {
  const { files } = readJson('package.json') as { files: string[] };
  for (const file of files) expect(inRoot(file)).not.toBe(path.dirname(testAddon()));
});

/** The text of all files of a folder whose names match. */
function texts(folder: string, names: RegExp, but: string): string {
  return readdirSync(inRoot(folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => names.test(name) && !name.endsWith(but))
    .map((name) => readFileSync(inRoot(folder, name), 'utf8'))
    .join('\n');
}

test('each defence is in use and has a control', () => {
  const failpoints = readFileSync(inRoot('src', 'failpoints', 'defences.rs'), 'utf8');
  const defences = [...failpoints.matchAll(/^ {8}(\w+): "([\w-]+)",$/gm)];
  expect(defences.length).toBeGreaterThan(20);
  const core = texts('src', /\.rs$/, 'defences.rs');
  const tests = texts('__test__/faults', /\.test\.ts$/, 'failpoints.test.ts');
  const uses = (name = '') => new RegExp(`(failpoint|panic_point)!\\(${name}\\)`).test(core);
  const unused = defences.filter(([, name]) => !uses(name));
  const unproven = defences.filter(([, , text]) => !tests.includes(`'${text}'`));
  expect([unused, unproven]).toEqual([[], []]);
});

test('each step is in use, and a test ends a process in it', () => {
  const failpoints = readFileSync(inRoot('src', 'failpoints', 'steps.rs'), 'utf8');
  const steps = [...failpoints.matchAll(/^ {8}(\w+): "([\w-]+)",$/gm)];
  expect(steps.length).toBeGreaterThan(10);
  const core = texts('src', /\.rs$/, 'steps.rs');
  const tests = texts('__test__/faults', /steps\.test\.ts$/, '-');
  const uses = (name = '') => new RegExp(`crash_point!\\(${name}[,)]`).test(core);
  expect(steps.filter(([, name]) => !uses(name))).toEqual([]);
  expect(steps.filter(([, , text]) => !tests.includes(`'${text}'`))).toEqual([]);
});
