// Installs npm dependencies if they differ from the lockfile.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './paths.mjs';
import { runOrThrow, SetupError } from './run.mjs';

/** @param {string} [folder] The folder of the package.json. */
export async function installDependencies(folder = root) {
  if (dependenciesAreCurrent(folder)) return;
  console.log('· installing npm dependencies');
  // No dependency needs an install script on the supported platforms.
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  if (folder !== root) args.push('--prefix', folder);
  // Under `npm run`, use the npm that runs this script; its path is also the only way to start npm
  // without a shell on Windows.
  const npm = process.env.npm_execpath;
  if (npm?.endsWith('npm-cli.js')) await runOrThrow('npm ci', process.execPath, [npm, ...args]);
  else await runOrThrow('npm ci', 'npm', args);
  if (!dependenciesAreCurrent(folder)) {
    throw new SetupError(
      'what npm installed is not what package-lock.json says; is it out of date?',
    );
  }
}

/**
 * npm writes the installed packages to `node_modules/.package-lock.json`. A comparison with the
 * lockfile is exact, unlike timestamps, which a checkout changes.
 */
function dependenciesAreCurrent(folder) {
  const installedFile = path.join(folder, 'node_modules', '.package-lock.json');
  if (!existsSync(installedFile)) return false;
  const wanted = packagesOf(path.join(folder, 'package-lock.json'));
  const installed = packagesOf(installedFile);
  const fits = (name) => installed[name]?.integrity === wanted[name]?.integrity;
  return (
    Object.keys(installed).every(fits) &&
    // Optional packages are usually for other platforms.
    Object.keys(wanted).every((name) => name === '' || wanted[name].optional || fits(name))
  );
}

function packagesOf(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages;
}
