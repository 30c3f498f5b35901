// Completes package-lock.json with the optional packages of other platforms (a tool's binaries, one
// package for each platform). npm omits them if the registry in use does not carry them, for
// example a mirror for one platform, and then refuses the lockfile in `npm ci`. Run it after any
// change of the dependencies:
//
//   npm install --package-lock-only && node scripts/complete-lockfile.mjs
//
// The tools of the docs site have their own lockfile in docs/.vitepress/.
import { readFileSync, writeFileSync } from 'node:fs';
import { inRoot } from './lib/paths.mjs';

const SYSTEMS = [
  'aix',
  'android',
  'darwin',
  'freebsd',
  'linux',
  'netbsd',
  'openbsd',
  'openharmony',
  'sunos',
  'win32',
];
const PROCESSORS = [
  'arm',
  'arm64',
  'ia32',
  'loong64',
  'mips64el',
  'ppc64',
  'riscv64',
  's390x',
  'wasm32',
  'x64',
];
const C_LIBRARIES = { gnu: 'glibc', gnueabihf: 'glibc', musl: 'musl', musleabihf: 'musl' };

/** The part of such a package's manifest that npm needs to skip the package. */
function describe(name, version, dev) {
  const words = name.split(/[-/]/);
  const os = words.filter((word) => SYSTEMS.includes(word));
  const cpu = words.filter((word) => PROCESSORS.includes(word));
  const libc = os.includes('linux') ? words.flatMap((word) => C_LIBRARIES[word] ?? []) : [];
  if (cpu.length === 0) throw new Error(`${name}: for which platform? Add it by hand.`);
  return {
    version,
    cpu,
    ...(dev && { dev }),
    ...(libc.length > 0 && { libc }),
    optional: true,
    ...(os.length > 0 && { os }),
  };
}

function complete(file) {
  const lockfile = JSON.parse(readFileSync(file, 'utf8'));
  const { packages } = lockfile;
  const added = {};
  for (const [parent, { optionalDependencies = {}, dev }] of Object.entries(packages)) {
    for (const [name, version] of Object.entries(optionalDependencies)) {
      const nested = `${parent}/node_modules/${name}`;
      const hoisted = `node_modules/${name}`;
      if (packages[nested] ?? packages[hoisted]) continue;
      if (!/^\d+\.\d+\.\d+[\w.-]*$/.test(version)) {
        throw new Error(`${name}@${version}: not an exact version. Add it by hand.`);
      }
      const place = added[hoisted] && added[hoisted].version !== version ? nested : hoisted;
      added[place] = describe(name, version, dev);
    }
  }
  Object.assign(packages, added);
  // In npm's own order, so that its next run changes nothing.
  lockfile.packages = Object.fromEntries(
    Object.entries(packages).sort(([a], [b]) => a.localeCompare(b, 'en')),
  );
  writeFileSync(file, `${JSON.stringify(lockfile, null, 2)}\n`);
  console.log(`${Object.keys(added).length} packages of other platforms added`);
}

complete(inRoot('package-lock.json'));
complete(inRoot('docs', '.vitepress', 'package-lock.json'));
