// `npm run deps`: fails if a module of the Rust core depends on an outer module, or if its files
// form a dependency cycle. For js/, `npm run lint` does the same (biome.json: noImportCycles,
// noRestrictedImports).
import { checkDependencies } from './lib/module-rules.mjs';
import { root } from './lib/paths.mjs';
import { main } from './lib/run.mjs';

/** From the inside out. A module may use modules of its own line and of the lines above. */
const LAYERS = [
  ['failpoints', 'pace', 'pause', 'offload', 'metrics'],
  ['model'],
  ['keys', 'in_flight'],
  ['store'],
  ['presence'],
  ['liveness'],
  ['heartbeat', 'expiry', 'metadata', 'lock'],
  ['options'],
  ['client'],
  ['node'],
];

main(async () => {
  const problems = checkDependencies(root, 'src/lib.rs', LAYERS);
  for (const problem of problems) console.error(problem);
  return problems.length > 0 ? 1 : 0;
});
