// `npm run demo`: does the set-up, then runs examples/demo/main.mjs with the arguments given.
import { inRoot } from './lib/paths.mjs';
import { main, run } from './lib/run.mjs';
import { findRedis, setUp } from './setup.mjs';

main(async () => {
  await setUp();
  // The demo shows itself without Redis too, so none is installed for it.
  const server = process.env.REDIS_URL ? undefined : await findRedis();
  const { code } = await run(
    process.execPath,
    [inRoot('examples', 'demo', 'main.mjs'), ...process.argv.slice(2)],
    { env: server === undefined ? {} : { REDIS_SERVER_BIN: server } },
  );
  return code;
});
