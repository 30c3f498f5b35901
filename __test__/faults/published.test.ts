// Defences can be turned off in the tests' own addon only: the published one does not know how.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { testAddon } from '../../scripts/lib/build.mjs';
import { inRoot, readJson } from '../../scripts/lib/paths.mjs';

const TRACES = ['ROLLCALL_TEST_DEFENCES_OFF', 'testDefencesOff', 'a test asked for a panic'];

test('the published addon has no switches, that of the fault tests has', () => {
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

test('the addon of the fault tests is in no package', () => {
  const { files } = readJson('package.json') as { files: string[] };
  for (const file of files) expect(inRoot(file)).not.toBe(path.dirname(testAddon()));
});
