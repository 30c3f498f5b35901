// Loads the recipes of the documentation (see blocks.ts) for tests: each is a module with exports.
import { pathToFileURL } from 'node:url';
import type { Untyped } from '../support/clients.js';
import { compile, readBlocks } from './blocks.js';

const blocks = readBlocks().filter(({ use }) => use === 'recipe');
const compiled = compile(blocks);

/** The exports of the recipe with this name. */
export async function recipe(name: string): Promise<Untyped> {
  const index = blocks.findIndex((block) => block.recipe === name);
  const file = compiled[index]?.file;
  if (file === undefined) throw new Error(`no page has a recipe ${name}`);
  return await import(/* @vite-ignore */ pathToFileURL(file).href);
}
