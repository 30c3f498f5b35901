// `node scripts/release-check.mjs <tag>`: fails, with the action to take, if package.json is not
// ready for the release with this tag. The release workflow starts with it. `--manifest <file>` is
// another file.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './lib/paths.mjs';
import { main, SetupError } from './lib/run.mjs';

main(async () => {
  const [tag, option, file] = process.argv.slice(2);
  const place = option === '--manifest' ? path.resolve(file) : inRoot('package.json');
  const { version, repository } = JSON.parse(readFileSync(place, 'utf8'));
  if (tag !== `v${version}`) {
    throw new SetupError(`the tag is ${tag}, and package.json has version ${version}.`);
  }
  if (!repository) {
    throw new SetupError(
      'package.json has no `repository`. Set it to the address of the repository: npm compares it ' +
        'with where a package was built, and refuses to publish it without.',
    );
  }
});
