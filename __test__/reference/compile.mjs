// Compiles the reference service for processes without a test runner: into target/reference/, once
// for each version of its source.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync } from 'node:fs';
import path from 'node:path';
import { inRoot, packageBin } from '../../scripts/lib/paths.mjs';

const sources = ['service.ts', 'handlers.ts'].map((name) => path.join(import.meta.dirname, name));

/** The folder with `service.js` and `handlers.js`. */
export function compileReference() {
  const version = createHash('sha256');
  for (const file of sources) version.update(readFileSync(file));
  const parent = inRoot('target/reference');
  const folder = path.join(parent, version.digest('hex').slice(0, 16));
  if (existsSync(folder)) return folder;
  mkdirSync(parent, { recursive: true });
  // Compiled into a temporary folder and then renamed, so that the final folder is always complete.
  const temporary = mkdtempSync(`${folder}-`);
  execFileSync(process.execPath, [
    packageBin('typescript', 'tsc'),
    '--ignoreConfig',
    '--strict',
    '--skipLibCheck',
    ...['--target', 'es2022', '--module', 'nodenext', '--types', 'node', '--outDir', temporary],
    ...sources,
  ]);
  try {
    renameSync(temporary, folder);
  } catch (error) {
    // Another process was faster.
    if (!existsSync(folder)) throw error;
  }
  return folder;
}
