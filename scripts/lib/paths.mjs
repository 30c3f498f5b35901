// Paths in this repository.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

/** An absolute path inside the repository. */
export function inRoot(...parts) {
  return path.join(root, ...parts);
}

/** A JSON file of the repository, parsed. */
export function readJson(...parts) {
  return JSON.parse(readFileSync(inRoot(...parts), 'utf8'));
}

/** The script of a command of an installed package, to run with this Node.js. */
export function packageBin(packageName, command) {
  const { bin } = readJson('node_modules', packageName, 'package.json');
  return inRoot('node_modules', packageName, typeof bin === 'string' ? bin : bin[command]);
}

/**
 * The tracked files of the repository and new files that git does not ignore, as relative paths.
 */
export function listed() {
  const args = ['ls-files', '-co', '--exclude-standard'];
  return execFileSync('git', args, { cwd: root, encoding: 'utf8' })
    .split('\n')
    .filter((file) => file !== '' && existsSync(inRoot(file)));
}
