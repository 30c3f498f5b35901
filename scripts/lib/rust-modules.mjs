// The files of a Rust crate and their dependencies, from `mod`, `use` and the paths in code. Code
// for tests is ignored. The expansion of macros and the types behind method calls are not analysed.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** The text without comments, strings and characters; positions stay the same. */
export function withoutText(source) {
  const literal =
    /\/\/[^\n]*|\/\*[\s\S]*?\*\/|b?r(#*)"[\s\S]*?"\1|b?"(?:[^"\\]|\\[\s\S])*"|b?'(?:[^'\\\n]|\\[^\n]{1,9}?)'/g;
  return source.replace(literal, (found) => found.replace(/[^\n]/g, ' '));
}

/** The position after the bracket that closes the one at `start`. */
function closing(text, start) {
  const pairs = { '{': '}', '[': ']', '(': ')' };
  const open = text[start];
  let depth = 0;
  for (let i = start; i < text.length; i += 1) {
    if (text[i] === open) depth += 1;
    else if (text[i] === pairs[open]) {
      depth -= 1;
      if (depth === 0) return i + 1;
    }
  }
  return text.length;
}

const FOR_TESTS = /#\[cfg\((?:test|all\(test\b[^\]]*)\)\]/g;

/** The text without items with `#[cfg(test)]`. */
export function withoutTests(text) {
  let rest = text;
  for (const { index, 0: attribute } of text.matchAll(FOR_TESTS)) {
    // The item ends with its block, or with its semicolon if it has none.
    let end = index + attribute.length;
    for (; end < rest.length && rest[end] !== ';' && rest[end] !== '{'; end += 1) {
      if (rest[end] === '[' || rest[end] === '(') end = closing(rest, end) - 1;
    }
    end = rest[end] === '{' ? closing(rest, end) : end + 1;
    rest = rest.slice(0, index) + rest.slice(index, end).replace(/[^\n]/g, ' ') + rest.slice(end);
  }
  return rest;
}

/** The paths in a `use` tree, as `{ path, as }`. */
function usedPaths(tree, before = []) {
  const text = tree.trim();
  const brace = text.indexOf('{');
  if (brace >= 0) {
    const prefix = [
      ...before,
      ...text
        .slice(0, brace)
        .split('::')
        .map((s) => s.trim()),
    ];
    const inside = text.slice(brace + 1, closing(text, brace) - 1);
    const parts = [];
    let depth = 0;
    let part = '';
    for (const letter of inside) {
      if (letter === '{') depth += 1;
      if (letter === '}') depth -= 1;
      if (letter === ',' && depth === 0) {
        parts.push(part);
        part = '';
      } else part += letter;
    }
    return [...parts, part]
      .filter((each) => each.trim() !== '')
      .flatMap((each) => usedPaths(each, prefix.filter(Boolean)));
  }
  const [name, as] = text.split(/\s+as\s+/);
  const segments = [...before, ...name.split('::').map((s) => s.trim())].filter(Boolean);
  if (segments.at(-1) === 'self') segments.pop();
  return [{ path: segments, as: as?.trim() ?? segments.at(-1) }];
}

/**
 * One module: its file, the modules in it, its re-exports of other modules, and the paths in its
 * code.
 *
 * @typedef {{ name: string, file: string, parent: Module | undefined, children: Map<string, Module>,
 *   exports: Map<string, string[]>, globs: string[][], paths: { path: string[], line: number }[],
 *   defines: Set<string> }} Module
 */

function readModule(root, file, name, parent) {
  const text = withoutTests(withoutText(readFileSync(path.join(root, file), 'utf8')));
  /** @type {Module} */
  const module = {
    name,
    file,
    parent,
    children: new Map(),
    exports: new Map(),
    globs: [],
    paths: [],
    defines: new Set(),
  };
  const folder = /^(mod|lib|main)\.rs$/.test(path.basename(file))
    ? path.dirname(file)
    : file.replace(/\.rs$/, '');
  for (const [, child] of text.matchAll(/\bmod\s+(\w+)\s*;/g)) {
    const places = [`${folder}/${child}.rs`, `${folder}/${child}/mod.rs`];
    const found = places.find((place) => existsSync(path.join(root, place)));
    if (found !== undefined) module.children.set(child, readModule(root, found, child, module));
  }
  const lineAt = (index) => text.slice(0, index).split('\n').length;
  const uses = /(\bpub(?:\([\w\s:]+\))?\s+)?\buse\s+([^;]+);/g;
  for (const { 1: isPublic, 2: tree, index } of text.matchAll(uses)) {
    for (const used of usedPaths(tree)) {
      // A re-export of an inner module is not a use of it.
      const ownChild = module.children.has(used.path[0] === 'self' ? used.path[1] : used.path[0]);
      if (isPublic !== undefined && ownChild) {
        if (used.as === '*') module.globs.push(used.path.slice(0, -1));
        else module.exports.set(used.as, used.path);
      } else {
        if (isPublic !== undefined) module.exports.set(used.as, used.path);
        module.paths.push({ path: used.path, line: lineAt(index) });
      }
    }
  }
  const code = text.replace(uses, (found) => found.replace(/[^\n]/g, ' '));
  for (const { 0: found, index } of code.matchAll(/(?<![\w:]|::\s*)\w+(?:\s*::\s*\w+)+/g)) {
    module.paths.push({ path: found.split('::').map((s) => s.trim()), line: lineAt(index) });
  }
  return module;
}

/** The module that contains the item of a path; `undefined` for paths of other crates. */
function resolve(module, segments, crate, seen = new Set()) {
  let [at, rest] = [module, segments];
  if (rest[0] === 'crate') [at, rest] = [crate, rest.slice(1)];
  else if (rest[0] === 'super' || rest[0] === 'self') {
    while (rest[0] === 'super' || rest[0] === 'self') {
      if (rest[0] === 'super') at = at.parent ?? at;
      rest = rest.slice(1);
    }
  } else if (!module.children.has(rest[0])) return undefined;
  for (const [i, segment] of rest.entries()) {
    const child = at.children.get(segment);
    if (child !== undefined) {
      at = child;
      continue;
    }
    const key = `${at.file} ${segment}`;
    if (seen.has(key)) return at;
    seen.add(key);
    const exported = at.exports.get(segment);
    if (exported !== undefined) {
      return resolve(at, [...exported, ...rest.slice(i + 1)], crate, seen) ?? at;
    }
    for (const glob of at.globs) {
      const inside = resolve(at, glob, crate, seen);
      if (inside?.exports.has(segment)) return resolve(inside, rest.slice(i), crate, seen) ?? at;
    }
    return at;
  }
  return at;
}

/**
 * The dependencies between files of the crate with the root `entry`: `{ from, to, line }`, in
 * order.
 */
export function rustUses(root, entry) {
  const crate = readModule(root, entry, 'crate', undefined);
  const uses = [];
  const visit = (module) => {
    for (const { path: segments, line } of module.paths) {
      const used = resolve(module, segments, crate);
      if (used !== undefined && used !== module) {
        uses.push({ from: module.file, to: used.file, line });
      }
    }
    for (const child of module.children.values()) visit(child);
  };
  visit(crate);
  return uses;
}
