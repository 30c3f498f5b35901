// `npm run types`: writes index.d.ts and index.d.mts, the public types, from js/. With `--check` it
// writes nothing, and fails if they are outdated.
import { existsSync } from 'node:fs';
import { buildDist } from './lib/build.mjs';
import { inRoot } from './lib/paths.mjs';
import { main, SetupError } from './lib/run.mjs';
import { outdatedTypes, writeTypes } from './lib/types.mjs';
import { setUp } from './setup.mjs';

main(async () => {
  // The compiler needs the types of an addon; an outdated addon is sufficient.
  if (existsSync(inRoot('binding/binding.d.ts'))) await buildDist();
  else await setUp();
  if (!process.argv.includes('--check')) {
    await writeTypes();
    return;
  }
  const outdated = await outdatedTypes();
  if (outdated.length > 0) {
    throw new SetupError(`${outdated.join(', ')}: not current; run \`npm run types\`.`);
  }
});
