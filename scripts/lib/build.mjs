// Building the two generated folders: binding/ (addon and its loader) and dist/ (compiled façade).
import { rmSync } from 'node:fs';
import { inRoot, packageBin, readJson } from './paths.mjs';
import { runOrThrow } from './run.mjs';
import { buildIfStale } from './stamp.mjs';
import { rustcVersion } from './toolchain.mjs';

function versionOf(packageName) {
  return readJson('node_modules', packageName, 'package.json').version;
}

/** Builds the addon, by napi-rs's own command line. */
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
      // The compiler never removes what a deleted source once gave.
      rmSync(inRoot('dist'), { recursive: true, force: true });
      return runOrThrow('compiling js/', process.execPath, [
        packageBin('typescript', 'tsc'),
        ...['-p', 'tsconfig.json'],
      ]);
    },
  });
}
