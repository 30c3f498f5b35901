// The dependency rules for the files of the Rust core: modules may use modules of their own layer
// and of inner layers, and files may not form cycles.
import { rustUses } from './rust-modules.mjs';

/** The top-level module of a file, or `undefined` for the crate's root. */
function topModule(file, entry) {
  return file === entry ? undefined : file.split('/')[1].replace(/\.rs$/, '');
}

/** Every use of an outer module, or of a module without a layer. */
function outward(uses, entry, layers) {
  const layerOf = new Map(layers.flatMap((names, layer) => names.map((name) => [name, layer])));
  const problems = new Set();
  for (const { from, to, line } of uses) {
    const [user, used] = [topModule(from, entry), topModule(to, entry)];
    if (user === undefined || used === undefined) continue;
    for (const [name, file] of [
      [user, from],
      [used, to],
    ]) {
      if (!layerOf.has(name)) problems.add(`${file}: the module \`${name}\` has no layer`);
    }
    if (layerOf.get(user) < layerOf.get(used)) {
      problems.add(`${from}:${line}: \`${user}\` depends on \`${used}\`, which is further out`);
    }
  }
  return [...problems];
}

/** The shortest path from a node back to itself, as a list that starts and ends with it. */
function shortestCycle(graph, start) {
  const cameFrom = new Map();
  const queue = [start];
  for (const node of queue) {
    for (const next of graph.get(node)?.keys() ?? []) {
      if (next === start) {
        const way = [start];
        for (let at = node; at !== start; at = cameFrom.get(at)) way.unshift(at);
        return [start, ...way];
      }
      if (cameFrom.has(next)) continue;
      cameFrom.set(next, node);
      queue.push(next);
    }
  }
  return undefined;
}

/** For every node in a cycle, the shortest cycle; each cycle once. */
function shortestCycles(uses) {
  /** @type {Map<string, Map<string, number>>} The first line that uses it. */
  const graph = new Map();
  for (const { from, to, line } of uses) {
    if (!graph.has(from)) graph.set(from, new Map());
    if (!graph.get(from).has(to)) graph.get(from).set(to, line);
  }
  const cycles = new Map();
  for (const start of [...graph.keys()].sort()) {
    const way = shortestCycle(graph, start);
    if (way === undefined) continue;
    const id = [...new Set(way)].sort().join(' ');
    const steps = way.slice(0, -1).map((file, i) => `${file}:${graph.get(file).get(way[i + 1])}`);
    if (!cycles.has(id)) cycles.set(id, [...steps, way[0]].join(' → '));
  }
  return [...cycles.values()];
}

/**
 * The violations of the rules in the crate with the root file `entry`.
 *
 * @param {string} root
 * @param {string} entry
 * @param {string[][]} layers Top-level modules, from the inside out.
 * @returns {string[]}
 */
export function checkDependencies(root, entry, layers) {
  const uses = rustUses(root, entry);
  return [...outward(uses, entry, layers), ...shortestCycles(uses).map((text) => `cycle: ${text}`)];
}
