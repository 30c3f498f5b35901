// Builds the two generated folders: binding/ (addon and its loader) and dist/ (compiled façade).
import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { inRoot, packageBin, readJson } from './paths.mjs';
import { runOrThrow } from './run.mjs';
import { buildIfStale } from './stamp.mjs';
import { rustcVersion } from './toolchain.mjs';

function versionOf(packageName) {
  return readJson('node_modules', packageName, 'package.json').version;
}

/** Builds the addon with the command line of napi-rs. */
export async function buildAddon({ debug = false, force = false } = {}) {
  const { name, version, napi } = readJson('package.json');
  await buildIfStale({
    name: 'addon',
    sources: ['Cargo.toml', 'Cargo.lock', '.cargo', 'build.rs', 'src', 'lua'],
    extra: { debug, name, version, napi, rustc: rustcVersion(), cli: versionOf('@napi-rs/cli') },
    output: 'binding',
    force,
    build: () => {
      console.log(`· building the addon (${debug ? 'debug' : 'release'})`);
      return runOrThrow('building the addon', process.execPath, [
        packageBin('@napi-rs/cli', 'napi'),
        'build',
        '--platform',
        ...(debug ? [] : ['--release']),
        ...['--output-dir', 'binding', '--js', 'binding.js', '--dts', 'binding.d.ts'],
      ]);
    },
  });
}

const TEST_ADDON = path.join('target', 'test-addon');

/**
 * Builds the addon of the fault tests, in which defences can be turned off (`src/failpoints/`). The
 * package never contains it: tests load it instead of the normal addon.
 */
export async function buildTestAddon({ force = false } = {}) {
  const { napi } = readJson('package.json');
  await buildIfStale({
    name: 'test-addon',
    sources: ['Cargo.toml', 'Cargo.lock', '.cargo', 'build.rs', 'src', 'lua'],
    extra: { napi, rustc: rustcVersion(), cli: versionOf('@napi-rs/cli') },
    output: TEST_ADDON,
    force,
    build: () => {
      console.log('· building the addon of the fault tests');
      // In release mode, so that the compiled dependencies can be reused.
      return runOrThrow('building the addon of the fault tests', process.execPath, [
        packageBin('@napi-rs/cli', 'napi'),
        ...['build', '--platform', '--release', '--features', 'test-faults'],
        ...['--output-dir', TEST_ADDON],
      ]);
    },
  });
}

/** The path of the addon of the fault tests, after it is built. */
export function testAddon() {
  const file = readdirSync(inRoot(TEST_ADDON)).find((name) => name.endsWith('.node'));
  return inRoot(TEST_ADDON, file ?? 'rollcall.node');
}

/** Compiles js/ to dist/. Needs the addon's generated types. */
export async function buildDist({ force = false } = {}) {
  await buildIfStale({
    name: 'dist',
    sources: ['js', 'tsconfig.json', 'binding/binding.d.ts'],
    extra: { typescript: versionOf('typescript') },
    output: 'dist',
    force,
    build: () => {
      console.log('· compiling js/');
      // The compiler never removes the output of a deleted source.
      rmSync(inRoot('dist'), { recursive: true, force: true });
      return runOrThrow('compiling js/', process.execPath, [
        packageBin('typescript', 'tsc'),
        ...['-p', 'tsconfig.json'],
      ]);
    },
  });
}
