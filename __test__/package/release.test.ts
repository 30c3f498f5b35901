// The first check of the release workflow: it stops with a reason until package.json is ready.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { inRoot } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from '../support/process.js';

function check(manifest: object, tag: string): Promise<{ code: unknown; stderr: string }> {
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-release-'));
  onTestFinished(removeWithProcess(folder));
  const file = path.join(folder, 'package.json');
  writeFileSync(file, JSON.stringify(manifest));
  const args = [inRoot('scripts', 'release-check.mjs'), tag, '--manifest', file];
  return new Promise((resolve) => {
    execFile(process.execPath, args, (error, _, stderr) =>
      resolve({ code: error?.code ?? 0, stderr }),
    );
  });
}

const READY = { version: '1.2.3', repository: 'https://git.example/team/rollcall' };

test('a release needs `repository` and the version of its tag in package.json', async () => {
  expect(await check(READY, 'v1.2.3')).toEqual({ code: 0, stderr: '' });
  expect(await check({ version: '1.2.3' }, 'v1.2.3')).toEqual({
    code: 1,
    stderr: expect.stringContaining('package.json has no `repository`. Set it'),
  });
  expect(await check(READY, 'v1.2.4')).toEqual({
    code: 1,
    stderr: expect.stringContaining('the tag is v1.2.4, and package.json has version 1.2.3'),
  });
});

test('every job of the workflow waits for that check', () => {
  const workflow = readFileSync(inRoot('.github', 'workflows', 'release.yml'), 'utf8');
  const jobs = workflow
    .slice(workflow.indexOf('\njobs:'))
    .split(/\n {2}(?=\w+:\n)/)
    .slice(1);
  const names = jobs.map((job) => job.slice(0, job.indexOf(':')));
  expect(names[0]).toBe('ready');
  expect(jobs[0]).toContain('run: node scripts/release-check.mjs "$GITHUB_REF_NAME"');
  for (const job of jobs.slice(1)) expect(job).toMatch(/^ {4}needs: (ready|\[build, check\])$/m);
});
