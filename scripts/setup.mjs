// Prepares a checkout: dependencies, addon, compiled façade, and on request a redis-server. Used by
// the other scripts of this folder, and as a command:
//
//   node scripts/setup.mjs [--redis] [--debug] [--force]
//
// This file works before anything is installed: it uses only Node.js's own modules.
import { pathToFileURL } from 'node:url';
import { buildAddon, buildDist } from './lib/build.mjs';
import { installDependencies } from './lib/dependencies.mjs';
import { findRedis, NO_REDIS } from './lib/redis.mjs';
import { main, SetupError } from './lib/run.mjs';
import { checkCargo, checkNode } from './lib/toolchain.mjs';

export { findRedis };

/**
 * Runs the missing steps of the set-up.
 *
 * @param {{ debug?: boolean, force?: boolean }} [options] `debug`: an unoptimised addon; `force`:
 *   rebuild everything.
 */
export async function setUp({ debug = false, force = false } = {}) {
  checkNode();
  checkCargo();
  await installDependencies();
  await buildAddon({ debug, force });
  await buildDist({ force });
}

/**
 * The path of a redis-server, installed if necessary; throws with the action to take if that fails.
 */
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
