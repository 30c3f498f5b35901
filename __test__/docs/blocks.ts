// Reads the JavaScript and TypeScript code blocks of README.md and docs/. The text after the
// language says how a block is checked:
//
//   ```ts                 a program: it is type-checked and run, and a server is put under the fuzz client
//   ```js client          a program for a browser: it is run against the first server of its page
//   ```ts recipe=<name>   a module with exports: a test imports it by this name (recipes.ts)
//   ```ts fragment        a part of a program: it is only type-checked, with the declarations of PRELUDE
//
// JavaScript is checked without `strict`, so that it needs no annotations.
import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inRoot, packageBin } from '../../scripts/lib/paths.mjs';
import { removeWithProcess } from '../support/process.js';

export type Use = 'program' | 'client' | 'recipe' | 'fragment';

export interface Block {
  /** The page, and the number of the block on it, starting at 1. */
  name: string;
  page: string;
  typed: boolean;
  use: Use;
  /** The name of a recipe. */
  recipe: string | undefined;
  code: string;
}

/**
 * Languages that are checked. The error for a language of the second line names one of the first.
 */
const CHECKED = ['js', 'ts'];
const OTHER_NAMES = ['javascript', 'typescript', 'mjs', 'cjs', 'mts', 'cts', 'jsx', 'tsx'];

/** Declarations for fragments. */
const PRELUDE = `
  declare const client: import('rollcall').PresenceClient;
  declare const io: import('socket.io').Server;
  declare const presence: import('rollcall').PresenceHandle;
  declare const service: import('rollcall').PresenceService;
  declare const socket: import('socket.io').Socket;
`;

const PAGES = [
  'README.md',
  ...readdirSync(inRoot('docs'), { recursive: true, encoding: 'utf8' })
    // docs/api/ is generated.
    .filter((name) => name.endsWith('.md') && !/(^|[\\/])(\.|node_modules)|^api[\\/]/.test(name))
    .map((name) => path.posix.join('docs', name.replaceAll('\\', '/')))
    .sort(),
];

/** @throws for a block with an unknown language or an unknown mark */
export function readBlocks(): Block[] {
  return PAGES.flatMap((page) => blocksOf(page, readFileSync(inRoot(page), 'utf8')));
}

export function blocksOf(page: string, text: string): Block[] {
  const fences = [...text.matchAll(/^ *```([a-z]+)([^\n]*)\n(.*?)^ *```/gms)];
  return fences
    .filter(([, language = '']) => [...CHECKED, ...OTHER_NAMES].includes(language))
    .map(([, language = '', mark = '', code = ''], index) => {
      const name = `${page} block ${index + 1}`;
      if (!CHECKED.includes(language)) throw new Error(`${name}: write js or ts, not ${language}`);
      const marks = /^(?: (client|fragment)| recipe=([a-z-]+))?$/.exec(mark);
      if (marks === null) throw new Error(`${name}: ${mark.trim()} is no mark of a block`);
      const [, use, recipe] = marks;
      return {
        name,
        page,
        typed: language === 'ts',
        use: recipe !== undefined ? 'recipe' : ((use as Use | undefined) ?? 'program'),
        recipe,
        code,
      };
    });
}

/** A folder with the dependencies that users of the package have. */
export function programFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'rollcall-test-example-'));
  removeWithProcess(folder);
  symlinkSync(inRoot('node_modules'), path.join(folder, 'node_modules'));
  return folder;
}

const isModule = ({ typed, use, code }: Block) =>
  typed || use !== 'program' || /^import /m.test(code);

/**
 * Type-checks blocks and compiles them to JavaScript files.
 *
 * @returns for each block its file and the compiler's messages.
 */
export function compile(blocks: readonly Block[]): { file: string; problems: string }[] {
  const folder = programFolder();
  writeFileSync(path.join(folder, 'prelude.d.ts'), PRELUDE);
  // Other blocks import recipes as `./<name>.js`.
  writeFileSync(path.join(folder, 'package.json'), '{ "type": "module" }');
  const files = blocks.map((block, index) => {
    const name = block.recipe ?? `block${index}`;
    const file = `${name}.${block.typed ? 'ts' : isModule(block) ? 'js' : 'cjs'}`;
    writeFileSync(path.join(folder, file), block.code);
    return file;
  });
  const common = {
    target: 'es2022',
    lib: ['esnext', 'dom', 'dom.iterable'],
    types: ['node'],
    moduleDetection: 'force',
    skipLibCheck: true,
    rootDir: '.',
  };
  const typed = {
    ...common,
    module: 'nodenext',
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    outDir: 'out',
    paths: { rollcall: [inRoot('index.d.mts')] },
  };
  const untyped = {
    ...common,
    module: 'preserve',
    strict: false,
    allowJs: true,
    checkJs: true,
    noEmit: true,
    paths: { rollcall: [inRoot('index.d.ts')] },
  };
  const isTyped = (file: string) => file.endsWith('.ts');
  const said = [
    ...check(folder, typed, files.filter(isTyped)),
    ...check(
      folder,
      untyped,
      files.filter((file) => !isTyped(file)),
    ),
  ];
  mkdirSync(path.join(folder, 'out'), { recursive: true });
  return files.map((file) => {
    const out = path.join(folder, 'out', file.replace('.ts', '.js'));
    const code = readFileSync(isTyped(file) ? out : path.join(folder, file), 'utf8');
    // Node.js resolves the package by its own name only from within it.
    const self = inRoot('dist', file.endsWith('.cjs') ? 'index.js' : 'index.mjs');
    writeFileSync(out, code.replace(/(["'])rollcall\1/g, JSON.stringify(self)));
    const problems = said.filter((line) => line.startsWith(`${file}(`)).join('\n');
    return { file: out, problems };
  });
}

/** The compiler's messages, by line. */
function check(folder: string, compilerOptions: object, files: string[]): string[] {
  const config = path.join(folder, 'tsconfig.json');
  writeFileSync(config, JSON.stringify({ compilerOptions, files: ['prelude.d.ts', ...files] }));
  const tsc = packageBin('typescript', 'tsc');
  const { stdout, stderr } = spawnSync(process.execPath, [tsc, '-p', config, '--pretty', 'false'], {
    cwd: folder,
    encoding: 'utf8',
  });
  const lines = `${stdout}${stderr}`.split('\n').filter((line) => line !== '');
  // A message that belongs to no block is an error of the check itself.
  const other = lines.find(
    (line) => !/^ /.test(line) && !files.some((file) => line.startsWith(`${file}(`)),
  );
  if (other !== undefined) throw new Error(`type-checking the documentation failed: ${other}`);
  return lines;
}
