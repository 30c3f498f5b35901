// Finds system programs, and installs them with the system's package manager. Never starts a
// service, and never asks for a password.
import { accessSync, chmodSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { read, run } from './run.mjs';

/** Folders in which package managers put programs, even if PATH does not contain them. */
const USUAL_FOLDERS = [
  '/usr/bin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
  '/home/linuxbrew/.linuxbrew/bin',
  '/opt/local/bin',
];

/** In the order of attempts. `root`: needs root permissions. */
const MANAGERS = [
  { command: 'apt-get', root: true, install: installByApt },
  { command: 'dnf', root: true, install: (as, names) => as('dnf', ['install', '-y', ...names]) },
  { command: 'apk', root: true, install: (as, names) => as('apk', ['add', ...names]) },
  {
    command: 'pacman',
    root: true,
    install: (as, names) => as('pacman', ['-S', '--noconfirm', ...names]),
  },
  { command: 'brew', root: false, install: (as, names) => as('brew', ['install', ...names]) },
];

/** The first program with one of these names on PATH or in the usual folders. */
export function locate(names, moreFolders = USUAL_FOLDERS) {
  const folders = [...(process.env.PATH ?? '').split(path.delimiter), ...moreFolders];
  return names
    .flatMap((name) => folders.filter(Boolean).map((folder) => path.join(folder, name)))
    .find(isExecutable);
}

export function isExecutable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Installs a package with any available package manager of the system.
 *
 * @param {string} what the name of the program, for the log
 * @param {Partial<Record<'apt-get' | 'dnf' | 'apk' | 'pacman' | 'brew', string[]>>} packages its
 * package names for each manager; a manager without an entry is skipped
 * @param {() => string | undefined} found looks for the installed program
 * @returns {Promise<string | undefined>} the result of `found` after the installation
 */
export async function installPackage(what, packages, found) {
  for (const { command, root, install } of MANAGERS) {
    const names = packages[command];
    if (names === undefined || locate([command], []) === undefined) continue;
    const prefix = root ? rootPrefix() : [];
    if (prefix === undefined) continue;
    console.log(`· installing ${what} by ${command}`);
    const as = async (program, args) => {
      const [first, ...rest] = [...prefix, program, ...args];
      return (await run(first, rest)).code === 0;
    };
    await install(as, names, prefix);
    const installed = found();
    if (installed !== undefined) return installed;
  }
  return undefined;
}

/** The prefix for a command that needs root; `undefined` if it would need a password. */
function rootPrefix() {
  if (process.getuid?.() === 0) return [];
  return read('sudo', ['-n', 'true']) === undefined ? undefined : ['sudo', '-n'];
}

/**
 * Debian's packages start their services at installation and at every boot. The policy script is
 * Debian's way to prevent the former; `update-rc.d … disable` undoes the latter.
 */
async function installByApt(as, names, prefix) {
  const policy = '/usr/sbin/policy-rc.d';
  const ownPolicy = !existsSync(policy) && (await forbidServices(as, prefix, policy));
  try {
    const environment = ['DEBIAN_FRONTEND=noninteractive', 'RUNLEVEL=1'];
    const apt = (...args) =>
      as('env', [...environment, 'apt-get', '-qq', '-o', 'DPkg::Lock::Timeout=120', ...args]);
    const install = () => apt('install', '-y', '--no-install-recommends', ...names);
    // The package lists of a new machine are often empty or outdated.
    if (!(await install())) {
      await apt('update');
      await install();
    }
    for (const name of names.filter((one) => existsSync(`/etc/init.d/${one}`))) {
      await as('update-rc.d', [name, 'disable']);
      // An existing policy may have let the service start; it then also allows to stop it.
      if (!ownPolicy) await as('invoke-rc.d', [name, 'stop']);
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
