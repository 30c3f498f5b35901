// `npm run build`: the addon and the compiled façade, ready for `npm pack`.
//
//   node scripts/build.mjs [--debug] [--force]
import { main } from './lib/run.mjs';
import { setUp } from './setup.mjs';

main(async () => {
  const options = new Set(process.argv.slice(2));
  await setUp({ debug: options.has('--debug'), force: options.has('--force') });
});
