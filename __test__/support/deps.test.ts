// The dependency rules (scripts/deps.mjs, biome.json) detect dependencies that point outwards and
// cycles of files.
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, realpathSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { checkDependencies } from '../../scripts/lib/module-rules.mjs';
import { inRoot, packageBin } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from './process.js';

/** A new folder with these files. */
function project(files: Record<string, string>): string {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-deps-'));
  onTestFinished(removeWithProcess(folder));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  }
  return folder;
}

describe('modules of the core', () => {
  const LAYERS = [['model'], ['store'], ['lock', 'presence'], ['client']];
  const FILES = {
    'src/lib.rs': 'mod model;\npub mod store;\npub mod lock;\npub mod presence;\nmod client;\n',
    'src/model.rs': 'pub struct Id;\n',
    'src/store/mod.rs': 'pub mod redis;\npub use redis::Redis;\npub trait Store {}\n',
    'src/store/redis.rs': 'use crate::store::Store;\npub struct Redis(crate::model::Id);\n',
    'src/lock.rs': 'use crate::store::{Redis, Store};\n',
    'src/presence.rs': 'use crate::store;\n',
    'src/client.rs': 'use crate::{lock, presence as p};\n',
  };
  const check = (changes: Record<string, string>) =>
    checkDependencies(project({ ...FILES, ...changes }), 'src/lib.rs', LAYERS);

  test('may use inner modules; re-exporting an inner module is not a use', () => {
    expect(check({})).toEqual([]);
  });

  test.each([
    ['use', 'use crate::{\n    model::Id,\n    client::Client,\n};\n', 1],
    ['a path in code', 'fn open() {\n    crate::client::open()\n}\n', 2],
    ['a path from the parent', 'fn open() { super::client::open() }\n', 1],
  ])('must not use an outer module: %s', (_, text, line) => {
    const problems = check({ 'src/lock.rs': text });
    expect(problems).toContain(
      `src/lock.rs:${line}: \`lock\` depends on \`client\`, which is further out`,
    );
  });

  test('must have a layer', () => {
    const problems = check({
      'src/lib.rs': `${FILES['src/lib.rs']}mod extra;\n`,
      'src/extra.rs': 'use crate::model::Id;\n',
    });
    expect(problems).toEqual(['src/extra.rs: the module `extra` has no layer']);
  });

  test('must not form a cycle', () => {
    const problems = check({ 'src/presence.rs': 'use super::lock;\n' });
    expect(problems).toEqual([]);
    const both = {
      'src/presence.rs': 'use super::lock;\n',
      'src/lock.rs': 'use super::presence;\n',
    };
    expect(check(both)).toEqual(['cycle: src/lock.rs:1 → src/presence.rs:1 → src/lock.rs']);
  });

  test('are followed through re-exports of inner modules', () => {
    const problems = check({
      'src/store/redis.rs': 'use crate::lock::Lock;\npub struct Redis;',
    });
    expect(problems).toEqual([
      'src/store/redis.rs:1: `store` depends on `lock`, which is further out',
      'cycle: src/lock.rs:1 → src/store/redis.rs:1 → src/lock.rs',
    ]);
  });

  test('comments, strings and tests do not count', () => {
    const text = `// use crate::client;
const TEXT: &str = "use crate::client;";
const RAW: &str = r#" " use crate::client; "#;
#[cfg(test)]
mod tests {
    use crate::client::Client;
}
#[cfg(test)]
use crate::client;
use crate::model;
`;
    expect(check({ 'src/store/redis.rs': text })).toEqual([]);
  });
});

describe('files of js/', () => {
  /** The output of biome for these files with the rules of this repository. */
  function lint(files: Record<string, string>): Promise<{ code: unknown; output: string }> {
    const folder = project({ '.gitignore': 'dist\n', ...files });
    copyFileSync(inRoot('biome.json'), path.join(folder, 'biome.json'));
    const biome = packageBin('@biomejs/biome', 'biome');
    return new Promise((resolve) => {
      execFile(process.execPath, [biome, 'lint'], { cwd: folder }, (error, stdout, stderr) => {
        resolve({ code: error?.code ?? 0, output: stdout + stderr });
      });
    });
  }

  test('must not form an import cycle, not even of types', async () => {
    const { code, output } = await lint({
      'js/a.ts': "import type { B } from './b.js';\nexport type A = B | 1;\n",
      'js/b.ts': "import type { A } from './a.js';\nexport type B = A | 2;\n",
    });
    expect([code, output]).toEqual([1, expect.stringContaining('js/a.ts:1:24 lint/suspicious')]);
    expect(output).toContain('noImportCycles');
  });

  test('must not import js/compat; its own files and the entry points may', async () => {
    const files = {
      'js/compat/b.ts': "export { c } from './c.js';\nexport { d } from '../d.js';\n",
      'js/compat/c.ts': 'export const c = 1;\n',
      'js/d.ts': 'export const d = 1;\n',
      'js/index.ts': "export { c } from './compat/b.js';\n",
    };
    expect(await lint(files)).toMatchObject({ code: 0 });
    const { code, output } = await lint({
      ...files,
      'js/a.ts': "export { c } from './compat/c.js';\n",
    });
    expect([code, output]).toEqual([1, expect.stringContaining('js/a.ts:1:19')]);
    expect(output).toContain('noRestrictedImports');
  });
});
