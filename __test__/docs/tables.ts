// Reads the tables of the documentation, to compare pages with code.
import { readFileSync } from 'node:fs';
import { inRoot } from '../../scripts/lib/paths.mjs';

export function readPage(name: string): string {
  return readFileSync(inRoot('docs', name), 'utf8');
}

/** The text below a heading, up to the next one of its level or above; the whole page without one. */
export function section(page: string, heading?: string): string {
  if (heading === undefined) return page;
  const lines = page.split('\n');
  const start = lines.indexOf(heading);
  if (start < 0) throw new Error(`the page has no heading "${heading}"`);
  const level = /^#+/.exec(heading)?.[0].length ?? 0;
  const after = lines.slice(start + 1);
  const end = after.findIndex((line) => (/^#+(?= )/.exec(line)?.[0].length ?? 9) <= level);
  return after.slice(0, end < 0 ? undefined : end).join('\n');
}

/** The rows of all tables without headers: the cells as text. */
export function rows(text: string): string[][] {
  return text
    .split(/\n(?!\|)/)
    .map((block) => block.split('\n').filter((line) => line.startsWith('|')))
    .flatMap((table) => table.slice(2))
    .map((line) =>
      line
        .slice(1, line.lastIndexOf('|'))
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim()),
    );
}

/** The names in the first column. */
export function names(text: string): string[] {
  return rows(text).flatMap(([first = '']) =>
    [...first.matchAll(/`([^`]+)`/g)].map(([, name = '']) => name),
  );
}
