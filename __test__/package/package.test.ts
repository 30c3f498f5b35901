// The package as users get it: packed, installed into an empty project outside the repository,
// without Rust, and used by `require`, `import` and TypeScript.
import { execFile } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from 'vitest';
import { inRoot, packageBin, readJson } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from '../support/process.js';
import { sharedRedis } from '../support/redis.js';

const execute = promisify(execFile);
const TSCONFIG = {
  compilerOptions: {
    target: 'es2022',
    lib: ['esnext'],
    module: 'nodenext',
    moduleResolution: 'nodenext',
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    // So that the package's own declarations are checked, too.
    skipLibCheck: false,
    outDir: 'out',
    rootDir: '.',
  },
};

/** All exports that are not only types. */
const EXPORTS = [
  'ERROR_CODES',
  'HeartbeatBatcher',
  'LuaHeartbeatExecutor',
  'MetadataConflictError',
  'MetadataError',
  'MetadataLockError',
  'MetadataValidationError',
  'PresenceClient',
  'PresenceService',
  'RollcallError',
  'TransactionalMetadataWrapper',
  'initPresence',
  'presenceKeys',
  'registerPresenceHandlers',
];

let folder: string;
let project: string;
let tarball: string;

async function npm(cwd: string, ...args: string[]): Promise<string> {
  // The npm that runs the tests, if there is one; nothing is requested from a registry.
  const cli = process.env.npm_execpath;
  const [program, ...first] = cli ? [process.execPath, cli] : ['npm'];
  const offline = ['--offline', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'];
  const { stdout } = await execute(program ?? 'npm', [...first, ...args, ...offline], { cwd });
  return stdout;
}

/** Runs a program of the project with a PATH without Rust or other tools. */
async function run(...args: string[]): Promise<string> {
  const { stdout } = await execute(process.execPath, args, {
    cwd: project,
    env: { PATH: path.join(folder, 'empty') },
  });
  return stdout;
}

/** The compiler's messages for a project in the test project. */
async function compile(tsconfig: string): Promise<string> {
  const compiled = await execute(
    process.execPath,
    [packageBin('typescript', 'tsc'), '-p', tsconfig],
    { cwd: project },
  ).catch((error) => error);
  return compiled.stdout;
}

/** Links the packages with the other types from the repository. */
function linkTypePackages(): void {
  for (const name of ['socket.io', 'ioredis', 'redis', '@types']) {
    const place = path.join(project, 'node_modules', name);
    if (!existsSync(place)) symlinkSync(inRoot('node_modules', name), place);
  }
}

beforeAll(async () => {
  folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'rollcall-package-'));
  project = path.join(folder, 'project');
  mkdirSync(project);
  mkdirSync(path.join(folder, 'empty'));
  const remove = removeWithProcess(folder);
  // `npm test` has built the package.
  const packed = await npm(inRoot(), 'pack', '--json', '--pack-destination', folder);
  tarball = path.join(folder, JSON.parse(packed)[0].filename);
  writeFileSync(path.join(project, 'package.json'), '{ "private": true }');
  await npm(project, 'install', tarball);
  return remove;
}, 60_000);

describe('the package, installed into an empty project without Rust', () => {
  test('contains all necessary files and no others', async () => {
    const inPackage = (file: string) => path.join(project, 'node_modules/rollcall', file);
    for (const file of [
      'dist/index.js',
      'dist/index.mjs',
      'index.d.ts',
      'index.d.mts',
      'README.md',
      'LICENSE',
    ]) {
      expect(existsSync(inPackage(file)), file).toBe(true);
    }
    const others = ['src', 'js', 'lua', '__test__', 'scripts', 'Cargo.toml', 'target'];
    for (const file of [...others, 'docs/.vitepress', 'docs/api']) {
      expect(existsSync(inPackage(file)), file).toBe(false);
    }
    expect(readJson('package.json').dependencies).toBeUndefined();
  });

  test('contains all files that README.md and docs/ link to', () => {
    const root = path.join(project, 'node_modules/rollcall');
    const pages = readdirSync(path.join(root, 'docs'), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.md'))
      .map((name) => path.join('docs', name));
    const links = ['README.md', ...pages].flatMap((page) => {
      const text = readFileSync(path.join(root, page), 'utf8').replace(/```.*?```/gs, '');
      const found = text.matchAll(/\]\(([^)#\s]+)[^)]*\)|\b(?:src|srcset|href)="([^"#]+)"/g);
      return [...found]
        .map(([, inText, inTag]) => inText ?? inTag ?? '')
        .filter((link) => !/^\w+:/.test(link))
        .map((link) => ({ page, link }));
    });
    expect(links).toContainEqual({ page: 'README.md', link: 'docs/benchmarks.md' });
    const missing = ({ page, link }: { page: string; link: string }) =>
      !existsSync(path.join(root, path.dirname(page), link));
    expect(links.filter(missing)).toEqual([]);
  });

  test('require', async () => {
    const program = `
      const { PresenceClient } = require('rollcall');
      PresenceClient.connect('memory://').then(async (client) => {
        const { snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
        console.log(snapshot.length);
      });`;
    expect(await run('-e', program)).toContain('1\n');
  });

  test('import', async () => {
    const program = `
      import { PresenceClient } from 'rollcall';
      const client = await PresenceClient.connect('memory://');
      const { snapshot } = await client.join({ roomId: 'r', userId: 'u', connId: 'c' });
      console.log(snapshot.length);`;
    expect(await run('--input-type=module', '-e', program)).toContain('1\n');
  });

  test('TypeScript: strict, exact, both module systems; compiled and run, on Redis too', async () => {
    for (const file of ['types.mts', 'usage.mts', 'usage.cts']) {
      cpSync(path.join(import.meta.dirname, 'fixtures', file), path.join(project, file));
    }
    // The compiler and the types of Node.js are those of the repository: nothing is requested from
    // a registry.
    symlinkSync(inRoot('node_modules/@types'), path.join(project, 'node_modules/@types'));
    symlinkSync(
      inRoot('node_modules/undici-types'),
      path.join(project, 'node_modules/undici-types'),
    );
    writeFileSync(path.join(project, 'tsconfig.json'), JSON.stringify(TSCONFIG));
    expect(await compile('tsconfig.json')).toBe('');

    const { url } = await sharedRedis();
    for (const store of ['memory://', url]) {
      expect(JSON.parse(await run('out/usage.mjs', store))).toEqual({
        mic: false,
        events: ['join', 'update', 'leave'],
        sameClasses: true,
        code: 'CLOSED',
        codes: 19,
        exports: EXPORTS,
        required: EXPORTS,
      });
      expect(JSON.parse(await run('out/usage.cjs', store))).toEqual({
        mic: false,
        code: 'CLOSED',
        sameClasses: true,
      });
    }
  }, 60_000);
});

describe('the legacy interface, with the types of socket.io, ioredis and redis', () => {
  test('10: TypeScript: strict, exact, both module systems; compiled and run', async () => {
    const other = path.join(project, 'compat');
    mkdirSync(other);
    for (const file of ['compat.mts', 'compat.cts']) {
      cpSync(path.join(import.meta.dirname, 'fixtures', file), path.join(other, file));
    }
    linkTypePackages();
    const { compilerOptions } = TSCONFIG;
    writeFileSync(
      path.join(other, 'tsconfig.json'),
      // The declarations of the other packages are not checked.
      JSON.stringify({ compilerOptions: { ...compilerOptions, skipLibCheck: true } }),
    );
    expect(await compile('compat/tsconfig.json')).toBe('');
    const { url } = await sharedRedis();
    for (const file of ['compat.mjs', 'compat.cjs']) {
      expect(JSON.parse(await run(`compat/out/${file}`, url))).toEqual({
        joined: ['c'],
        changed: true,
        left: { roomId: 'r', userId: 'u' },
        key: 'prs:conn:c',
      });
    }
  }, 60_000);
});

describe('servers of the legacy implementation with only the import changed', () => {
  const SERVERS = ['server.mts', 'manual.mts', 'metadata.mts', 'optimized.cts', 'values.mts'];

  test('10: five strict and exact server files compile, and run on Redis', async () => {
    const legacy = path.join(project, 'legacy');
    mkdirSync(legacy);
    for (const file of SERVERS) {
      cpSync(path.join(import.meta.dirname, 'fixtures/legacy', file), path.join(legacy, file));
    }
    linkTypePackages();
    const { compilerOptions } = TSCONFIG;
    writeFileSync(
      path.join(legacy, 'tsconfig.json'),
      JSON.stringify({ compilerOptions: { ...compilerOptions, skipLibCheck: true } }),
    );
    expect(await compile('legacy/tsconfig.json')).toBe('');
    const { url } = await sharedRedis();
    const printed = async (file: string) => JSON.parse(await run(`legacy/out/${file}`, url));
    expect(await printed('server.mjs')).toEqual({ size: 0 });
    expect(await printed('manual.mjs')).toEqual({
      types: ['join', 'leave'],
      emitted: ['who r join', 'who r leave'],
      changed: false,
      userId: 'u',
      left: { roomId: 'r', userId: 'u' },
      refused: 'not allowed',
    });
    const title = { value: 'Final', revision: 2, authorUid: 'ada' };
    expect(await printed('metadata.mjs')).toEqual({
      title,
      shown: title,
      codes: ['conflict', 'invalid', 'lock', 'QuotaError METADATA_INVALID'],
      operations: ['set', 'update', 'remove'],
      made: 'METADATA_LOCK',
    });
    expect(await printed('optimized.cjs')).toEqual({
      changed: [true, false],
      epoch: 'number',
      majorRevision: 2,
      waiting: 0,
      after: 'HeartbeatBatcher has been disposed',
    });
    expect(await printed('values.mjs')).toEqual(['join', 'leave', 1, 'set']);
  }, 60_000);
});

describe('checks of the package by other tools', () => {
  test('publint', async () => {
    const bin = packageBin('publint', 'publint');
    const { stdout } = await execute(process.execPath, [bin, 'run', tarball, '--strict']);
    expect(stdout).toContain('All good!');
  });

  test('attw (are the types wrong?)', async () => {
    const bin = packageBin('@arethetypeswrong/cli', 'attw');
    const { stdout } = await execute(process.execPath, [bin, tarball, '--format', 'json'], {
      maxBuffer: 64 * 1024 * 1024,
    }).catch((error) => error);
    const { analysis, problems } = JSON.parse(stdout);
    expect(problems ?? analysis.problems).toEqual(Array.isArray(problems) ? [] : {});
  });
});
