// The public types in one file: index.d.ts in the root folder, which `types` in package.json points
// to. It is generated from the compiler's output in dist/, and committed, so that reviews show
// changes of the public types.
import { readFileSync, writeFileSync } from 'node:fs';
import { inRoot } from './paths.mjs';

const HEADER = `// The public types of Rollcall. Generated from js/ by \`npm run types\`; do not edit.
`;

async function bundle(entry) {
  // Imported here, because users of the other functions of this folder need no dependencies.
  const { rollup } = await import('rollup');
  const { dts } = await import('rollup-plugin-dts');
  const built = await rollup({
    input: inRoot(entry),
    plugins: [dts()],
    external: [/^node:/],
    onwarn: (warning) => {
      throw new Error(`bundling the types: ${warning.message}`);
    },
  });
  const { output } = await built.generate({ format: 'es' });
  return output[0].code;
}

/** The expected contents of the files, by name. */
export async function publicTypes() {
  return new Map([
    ['index.d.ts', `${HEADER}${await bundle('dist/index.d.ts')}`],
    // The ESM entry has the same types: a list of names.
    ['index.d.mts', `${HEADER}${readFileSync(inRoot('dist/index.d.mts'), 'utf8')}\n`],
  ]);
}

/** Writes the files. */
export async function writeTypes() {
  for (const [file, text] of await publicTypes()) writeFileSync(inRoot(file), text);
}

/** Names of the files with other contents than expected. */
export async function outdatedTypes() {
  const isCurrent = ([file, text]) => {
    try {
      return readFileSync(inRoot(file), 'utf8') === text;
    } catch {
      return false;
    }
  };
  return [...(await publicTypes())].filter((entry) => !isCurrent(entry)).map(([file]) => file);
}
