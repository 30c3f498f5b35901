// The public types, in one file: index.d.ts at the top level, which `types` in package.json points to.
// It is made from what the compiler writes to dist/, and committed, so that a change of the public types
// is seen where it is reviewed.
import { readFileSync, writeFileSync } from 'node:fs';
import { inRoot } from './paths.mjs';

const HEADER = `// The public types of Rollcall. Generated from js/ by \`npm run types\`; do not edit.
`;

async function bundle(entry) {
  // Loaded here: what uses the other functions of this folder needs no dependencies.
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

/** What the files have to be, by their names. */
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

/** Names of the files that are not what they have to be. */
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
