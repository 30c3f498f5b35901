// Installing npm dependencies, when what is installed is not what the lockfile says.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './paths.mjs';
import { runOrThrow, SetupError } from './run.mjs';

/** @param {string} [folder] Where the package.json is whose dependencies are meant. */
export async function installDependencies(folder = root) {
  if (dependenciesAreCurrent(folder)) return;
  console.log('· installing npm dependencies');
  // No dependency needs an install script on the platforms that we build for.
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  if (folder !== root) args.push('--prefix', folder);
  // Under `npm run`, the npm that runs us is the one to use; its path is also the only way to
  // start npm without a shell on Windows.
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
 * npm writes what it installed into `node_modules/.package-lock.json`; comparing that with the
 * lockfile is exact where time stamps are not (a checkout sets them anew).
 */
function dependenciesAreCurrent(folder) {
  const installedFile = path.join(folder, 'node_modules', '.package-lock.json');
  if (!existsSync(installedFile)) return false;
  const wanted = packagesOf(path.join(folder, 'package-lock.json'));
  const installed = packagesOf(installedFile);
  const fits = (name) => installed[name]?.integrity === wanted[name]?.integrity;
  return (
    Object.keys(installed).every(fits) &&
    // Optional ones are for other platforms, as a rule.
    Object.keys(wanted).every((name) => name === '' || wanted[name].optional || fits(name))
  );
}

function packagesOf(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages;
}
