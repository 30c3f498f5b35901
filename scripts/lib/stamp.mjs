// Checks by content, not by time, whether a build result still matches its sources.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { inRoot } from './paths.mjs';

/** Files (absolute paths) under the given files and folders of the repository, sorted. */
function filesUnder(names) {
  return names
    .flatMap((name) => {
      const start = inRoot(name);
      if (!existsSync(start)) return [];
      if (statSync(start).isFile()) return [start];
      return readdirSync(start, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));
    })
    .sort();
}

function hashSources(names, extra) {
  const hash = createHash('sha256').update(JSON.stringify(extra));
  for (const file of filesUnder(names)) {
    const text = readFileSync(file);
    hash.update(`\0${path.relative(inRoot(), file)}\0${text.length}\0`).update(text);
  }
  return hash.digest('hex');
}

/** Size and time of each output, to detect changes by other programs. */
function describeOutputs(folder) {
  return filesUnder([folder]).map((file) => {
    const { size, mtimeMs } = statSync(file);
    return [path.relative(inRoot(), file), size, mtimeMs];
  });
}

/**
 * Builds `output` unless the last build had the same sources and its output is unchanged.
 *
 * @param {{ name: string, sources: string[], extra: unknown, output: string, force?: boolean,
 *   build: () => Promise<void> }} target `extra` are the other inputs of the result: tool versions,
 *   profile.
 */
export async function buildIfStale({ name, sources, extra, output, force = false, build }) {
  const stampFile = inRoot('node_modules', '.cache', 'rollcall', `${name}.json`);
  const stamp = () => JSON.stringify([hashSources(sources, extra), describeOutputs(output)]);
  if (!force && existsSync(stampFile) && readFileSync(stampFile, 'utf8') === stamp()) return;
  // Computed before the build: if a source changes during the build, the next check fails.
  const sourceHash = hashSources(sources, extra);
  await build();
  mkdirSync(path.dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, JSON.stringify([sourceHash, describeOutputs(output)]));
}
