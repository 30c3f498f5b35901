// `npm run demo`: runs the set-up, then examples/demo/main.mjs with the given arguments.
import { inRoot } from './lib/paths.mjs';
import { main, run } from './lib/run.mjs';
import { findRedis, setUp } from './setup.mjs';

main(async () => {
  await setUp();
  // One process works without Redis, so none is installed for it; several processes need one.
  const install = process.argv.some((arg) => arg.startsWith('--nodes'));
  const server = process.env.REDIS_URL ? undefined : await findRedis({ install });
  const { code } = await run(
    process.execPath,
    [inRoot('examples', 'demo', 'main.mjs'), ...process.argv.slice(2)],
    { env: server === undefined ? {} : { REDIS_SERVER_BIN: server } },
  );
  return code;
});
