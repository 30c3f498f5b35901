// The tools that build the site of docs/ and check links. They have their own package.json in
// docs/.vitepress/, so that tests and builds of the addon do not wait for their installation.
import { installDependencies } from './dependencies.mjs';
import { inRoot } from './paths.mjs';
import { run, runOrThrow } from './run.mjs';

const folder = inRoot('docs', '.vitepress');

/** The path of a file of one of the tools. */
export function docsTool(...parts) {
  return inRoot('docs', '.vitepress', 'node_modules', ...parts);
}

export async function installDocsTools() {
  await installDependencies(folder);
}

/** Writes docs/api/, the pages of the public types, from index.d.ts. */
export async function writeApiPages() {
  const options = ['--options', inRoot('docs', '.vitepress', 'typedoc.json'), '--logLevel', 'Warn'];
  await runOrThrow('typedoc', process.execPath, [
    docsTool('typedoc', 'bin', 'typedoc'),
    ...options,
  ]);
}

/** Runs a command of VitePress on docs/. */
export function vitepress(command, ...args) {
  const program = docsTool('vitepress', 'bin', 'vitepress.js');
  return run(process.execPath, [program, command, inRoot('docs'), ...args]);
}
