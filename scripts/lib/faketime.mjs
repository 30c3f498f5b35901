// Finds or installs libfaketime, with which tests change the clock of a process.
import { existsSync, readdirSync } from 'node:fs';
import { installPackage } from './packages.mjs';

const PACKAGES = {
  'apt-get': ['faketime'],
  dnf: ['libfaketime'],
  apk: ['libfaketime'],
  pacman: ['libfaketime'],
};
const FOLDERS = ['/usr/lib', '/usr/lib64', '/usr/local/lib'];

/** The library, if it is already installed. Synchronous, and changes nothing. */
export function locateFaketime() {
  return FOLDERS.flatMap((folder) => [
    folder,
    ...(existsSync(folder) ? readdirSync(folder) : [])
      .filter((name) => name.endsWith('-linux-gnu'))
      .map((name) => `${folder}/${name}`),
  ])
    .map((folder) => `${folder}/faketime/libfaketime.so.1`)
    .find((file) => existsSync(file));
}

/**
 * The library, installed if necessary and if that needs no password; `undefined` if that is not
 * possible.
 */
export async function findFaketime() {
  const found = locateFaketime();
  if (found !== undefined || process.platform !== 'linux') return found;
  return installPackage('libfaketime', PACKAGES, locateFaketime);
}
