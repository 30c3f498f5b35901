// Finds or installs a redis-server program for tests and demo. Never starts a server.
import path from 'node:path';
import { installPackage, isExecutable, locate } from './packages.mjs';
import { SetupError } from './run.mjs';

const PACKAGES = {
  'apt-get': ['redis-server'],
  dnf: ['redis'],
  apk: ['redis'],
  pacman: ['redis'],
  brew: ['redis'],
};

/**
 * The path of a redis-server program (or Valkey's, which is compatible).
 *
 * @param {{ install?: boolean }} [options] With `install`, a missing program is installed by the
 * system's package manager, if that needs no password (and unless ROLLCALL_INSTALL_REDIS=0).
 * @returns {Promise<string | undefined>} `undefined` if there is none and none may be installed.
 */
export async function findRedis({ install = false } = {}) {
  const found = locateRedis();
  if (found !== undefined || !install || process.env.ROLLCALL_INSTALL_REDIS === '0') return found;
  return installPackage('a redis-server', PACKAGES, locateRedis);
}

/** The message for a missing redis-server. One line. */
export const NO_REDIS =
  'a redis-server is needed: install Redis 7 (Debian/Ubuntu: `apt-get install redis-server`, ' +
  'macOS: `brew install redis`), or set REDIS_SERVER_BIN to one.';

/** A redis-server that is already installed. Synchronous, and changes nothing. */
export function locateRedis() {
  const chosen = process.env.REDIS_SERVER_BIN;
  if (chosen) {
    // No fallback: a user who names a server wants that one.
    if (!isExecutable(chosen)) {
      throw new SetupError(`REDIS_SERVER_BIN is ${chosen}, which is not a program.`);
    }
    return path.resolve(chosen);
  }
  return locate(['redis-server', 'valkey-server']);
}
