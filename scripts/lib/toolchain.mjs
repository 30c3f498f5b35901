// Checks the versions of Node.js and Rust, and reports how to install them.
import { readFileSync } from 'node:fs';
import { inRoot, readJson } from './paths.mjs';
import { read, SetupError } from './run.mjs';

/** Throws unless the running Node.js satisfies `engines.node` (always of the form `>=N`). */
export function checkNode() {
  const wanted = readJson('package.json').engines.node.replace('>=', '');
  if (!isAtLeast(process.versions.node, wanted)) {
    throw new SetupError(
      `Node.js ${wanted} or newer is needed; this is ${process.versions.node}. ` +
        'Install a current release from https://nodejs.org.',
    );
  }
}

/** Throws unless `cargo` exists and satisfies `rust-version` of Cargo.toml. */
export function checkCargo() {
  const manifest = readFileSync(inRoot('Cargo.toml'), 'utf8');
  const wanted = /^rust-version\s*=\s*"([^"]+)"/m.exec(manifest)?.[1] ?? '0';
  const found = read('cargo', ['--version'])?.split(' ')[1];
  if (found === undefined) {
    throw new SetupError(
      `Rust ${wanted} or newer is needed to build the addon, and cargo is not on the PATH. ` +
        'Install it as https://rustup.rs says.',
    );
  }
  if (!isAtLeast(found, wanted)) {
    throw new SetupError(
      `Rust ${wanted} or newer is needed to build the addon; this is ${found}. ` +
        'Run `rustup update stable`.',
    );
  }
}

/** The compiler's exact version and host, which affect the result of a build. */
export function rustcVersion() {
  return read('rustc', ['-vV']) ?? '';
}

function isAtLeast(version, wanted) {
  const [have, need] = [version, wanted].map((text) =>
    text
      .split('-')[0]
      .split('.')
      .map((part) => Number.parseInt(part, 10)),
  );
  for (let i = 0; i < need.length; i++) {
    if ((have[i] ?? 0) !== need[i]) return (have[i] ?? 0) > need[i];
  }
  return true;
}
