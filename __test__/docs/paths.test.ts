// Files that the documentation names exist, and pages that code names exist.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { inRoot } from '../../scripts/lib/paths.mjs';

const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], {
  cwd: inRoot(),
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => file !== '' && existsSync(inRoot(file)));

/** Paths in the files that do not exist. */
function missing(in_: RegExp, named: RegExp): string[] {
  return files
    .filter((file) => in_.test(file))
    .flatMap((file) => {
      const text = readFileSync(inRoot(file), 'utf8');
      return [...text.matchAll(named)]
        .map(([, name = '']) => name)
        .filter((name) => !existsSync(inRoot(name)))
        .map((name) => `${file}: ${name}`);
    });
}

test('files named on pages', () => {
  const named =
    /(?<![\w./-])((?:src|js|lua|scripts|benchmark|__test__)\/(?:[\w.-]+\/)*(?:[\w-]+\.[\w.]*\w)?)/g;
  expect(missing(/^(docs\/.*|README|CONTRIBUTING)\.?md$/, named)).toEqual([]);
});

test('pages named in code and comments', () => {
  const named = /(?<![\w./-])(docs\/[\w./-]+\.md)/g;
  expect(missing(/\.(rs|lua|ts|mts|mjs|cjs|toml|md|yml)$/, named)).toEqual([]);
});
