// Finding a redis-server program for tests and demo, or installing one. Nothing here starts a
// server, and an installation that would start one as a service is kept from it.
import { accessSync, chmodSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { read, run, SetupError } from './run.mjs';

const NAMES = ['redis-server', 'valkey-server'];

/** Where package managers put it without every PATH having it. */
const USUAL_FOLDERS = [
  '/usr/bin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
  '/home/linuxbrew/.linuxbrew/bin',
  '/opt/local/bin',
];

/** Package managers in the order in which they are tried. `root`: needs to be root. */
const MANAGERS = [
  { command: 'apt-get', root: true, install: installByApt },
  { command: 'dnf', root: true, install: (as) => as('dnf', ['install', '-y', 'redis']) },
  { command: 'apk', root: true, install: (as) => as('apk', ['add', 'redis']) },
  { command: 'pacman', root: true, install: (as) => as('pacman', ['-S', '--noconfirm', 'redis']) },
  { command: 'brew', root: false, install: (as) => as('brew', ['install', 'redis']) },
];

/**
 * The path of a redis-server program (or Valkey's, which is compatible).
 *
 * @param {{ install?: boolean }} [options] With `install`, one that is missing is installed by the
 *   system's package manager, if that needs no password (and unless ROLLCALL_INSTALL_REDIS=0).
 * @returns {Promise<string | undefined>} `undefined` where there is none and none may be installed.
 */
export async function findRedis({ install = false } = {}) {
  const found = locateRedis();
  if (found !== undefined || !install || process.env.ROLLCALL_INSTALL_REDIS === '0') return found;
  for (const manager of MANAGERS) {
    if (locate([manager.command], []) === undefined) continue;
    const prefix = manager.root ? rootPrefix() : [];
    if (prefix === undefined) continue;
    console.log(`· installing a redis-server by ${manager.command}`);
    const as = async (command, args) => {
      const [program, ...rest] = [...prefix, command, ...args];
      return (await run(program, rest)).code === 0;
    };
    await manager.install(as, prefix);
    const installed = locateRedis();
    if (installed !== undefined) return installed;
  }
  return undefined;
}

/** What to tell who has no redis-server. One line. */
export const NO_REDIS =
  'a redis-server is needed: install Redis 7 (Debian/Ubuntu: `apt-get install redis-server`, ' +
  'macOS: `brew install redis`), or set REDIS_SERVER_BIN to one.';

/** A redis-server that is already on the machine. Synchronous, and changes nothing. */
export function locateRedis() {
  const chosen = process.env.REDIS_SERVER_BIN;
  if (chosen) {
    // Not to be made up for by another one: who names a server means that one.
    if (!isExecutable(chosen)) {
      throw new SetupError(`REDIS_SERVER_BIN is ${chosen}, which is not a program.`);
    }
    return path.resolve(chosen);
  }
  return locate(NAMES, USUAL_FOLDERS);
}

function locate(names, moreFolders) {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), ...moreFolders];
  return names
    .flatMap((name) => folders.filter(Boolean).map((folder) => path.join(folder, name)))
    .find(isExecutable);
}

function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** What to put before a command that root is to run; `undefined` where that takes a password. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return read('sudo', ['-n', 'true']) === undefined ? undefined : ['sudo', '-n'];
}

/**
 * Debian's package starts its service when it is installed and at every boot. The policy script is
 * Debian's own way to forbid the former; `update-rc.d … disable` undoes the latter.
 */
async function installByApt(as, prefix) {
  const policy = '/usr/sbin/policy-rc.d';
  const ownPolicy = !existsSync(policy) && (await forbidServices(as, prefix, policy));
  try {
    const quiet = ['DEBIAN_FRONTEND=noninteractive', 'RUNLEVEL=1'];
    const apt = (...args) =>
      as('env', [...quiet, 'apt-get', '-qq', '-o', 'DPkg::Lock::Timeout=120', ...args]);
    const install = () => apt('install', '-y', '--no-install-recommends', 'redis-server');
    // The package lists of a new machine are often empty or too old for what is to be had.
    if (!(await install())) {
      await apt('update');
      await install();
    }
    if (existsSync('/etc/init.d/redis-server')) {
      await as('update-rc.d', ['redis-server', 'disable']);
      // A policy that was there before may have let it start; then it lets it stop as well.
      if (!ownPolicy) await as('invoke-rc.d', ['redis-server', 'stop']);
    }
  } finally {
    if (ownPolicy) {
      if (prefix.length === 0) rmSync(policy, { force: true });
      else await as('rm', ['-f', policy]);
    }
  }
}

async function forbidServices(as, prefix, policy) {
  const script = '#!/bin/sh\nexit 101\n';
  if (prefix.length > 0) {
    return as('sh', [
      '-c',
      `printf '${script.replaceAll('\n', '\\n')}' > ${policy} && chmod 755 ${policy}`,
    ]);
  }
  writeFileSync(policy, script);
  chmodSync(policy, 0o755);
  return true;
}
