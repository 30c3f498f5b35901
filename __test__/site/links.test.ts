// `npm run links` finds broken links. (In `npm run test:more`, because the tools may have to be
// installed first.)
import { execFile } from 'node:child_process';
import { mkdtempSync, realpathSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from '../support/process.js';

function links(text: string): Promise<{ code: unknown; output: string }> {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-links-'));
  onTestFinished(removeWithProcess(folder));
  const page = path.join(folder, 'page.md');
  writeFileSync(page, text);
  writeFileSync(path.join(folder, 'other.md'), '# Other\n\n## A part\n');
  return new Promise((resolve) => {
    execFile(process.execPath, [inRoot('scripts', 'links.mjs'), page], (error, stdout, stderr) => {
      resolve({ code: error?.code ?? 0, output: stdout + stderr });
    });
  });
}

test('files and headings must exist; links to other sites are not checked', async () => {
  const right = '# Page\n\n[a](other.md#a-part) [b](#page) [c](https://nowhere.invalid/x)\n';
  expect(await links(right)).toMatchObject({ code: 0 });
  const { code, output } = await links(`${right}\n[d](none.md) [e](other.md#none) [f](#none)\n`);
  expect(code).toBe(1);
  for (const kind of ['missing-file', 'missing-heading-in-file', 'missing-heading']) {
    expect(output).toMatch(new RegExp(`remark-validate-links:${kind}$`, 'm'));
  }
}, 120_000);
