// Brings a checkout into a state in which it runs: dependencies, addon, compiled façade, and on
// request a redis-server. Used by the other scripts of this folder, and as a command:
//
//   node scripts/setup.mjs [--redis] [--debug] [--force]
//
// Everything here works before anything is installed: only Node.js's own modules are used.
import { pathToFileURL } from 'node:url';
import { buildAddon, buildDist } from './lib/build.mjs';
import { installDependencies } from './lib/dependencies.mjs';
import { findRedis, NO_REDIS } from './lib/redis.mjs';
import { main, SetupError } from './lib/run.mjs';
import { checkCargo, checkNode } from './lib/toolchain.mjs';

export { findRedis };

/**
 * Does whatever of the set-up has not been done yet.
 *
 * @param {{ debug?: boolean, force?: boolean }} [options] `debug`: an unoptimised addon; `force`:
 *   build even what looks current.
 */
export async function setUp({ debug = false, force = false } = {}) {
  checkNode();
  checkCargo();
  await installDependencies();
  await buildAddon({ debug, force });
  await buildDist({ force });
}

/** A redis-server's path, installed first if need be; throws with what to do where that fails. */
export async function requireRedis() {
  const server = await findRedis({ install: true });
  if (server === undefined) throw new SetupError(NO_REDIS);
  return server;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  main(async () => {
    const options = new Set(process.argv.slice(2));
    if (options.has('--redis')) console.log(`redis-server: ${await requireRedis()}`);
    await setUp({ debug: options.has('--debug'), force: options.has('--force') });
  });
}
