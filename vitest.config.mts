// How vitest runs the JavaScript tests. (.mts: vitest is ESM only, this package is CommonJS.)
//
// What belongs where: `npm test` runs the project `rollcall`, which shows the contract: what the
// specification promises, on Redis and in the process, and the package as users install it. It has
// at most 8 minutes on two processors, build included. A new folder is part of it. `npm run
// test:more` runs the projects `more` and `faults`: whole programs (the demo, the benchmark), fleets
// and clusters at work, and faults. A test whose size is a number of steps can be in `npm test` with
// fewer of them; `test:more` then runs it in its long form (`__test__/support/size.ts`).
import { defineConfig } from 'vitest/config';

/** The project `more`. */
const MORE = ['benchmark', 'cluster', 'demo', 'fleet', 'site'].map(
  (folder) => `__test__/${folder}/**/*.test.ts`,
);
const FAULTS = ['__test__/faults/**/*.test.ts'];

export default defineConfig({
  test: {
    // The package under test is loaded by Node.js itself, as its users load it: vitest would give
    // the ESM entry a second copy of the CommonJS modules behind it.
    server: { deps: { external: [/\/(dist|binding)\//] } },
    // A process for each test file: a native addon is tested as it is used, and a crash or a
    // leaked handle in one file cannot touch another.
    pool: 'forks',
    // For what hangs: how long a test waits for something it says itself (`support/wait.ts`).
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 10_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'rollcall',
          // Its tests mostly wait, so two processors serve three workers.
          maxWorkers: 3,
          sequence: { groupOrder: 0 },
          include: ['__test__/**/*.test.ts'],
          exclude: [...MORE, ...FAULTS],
        },
      },
      {
        extends: true,
        // Each worker may run servers and child processes of its own beside itself.
        test: { name: 'more', maxWorkers: 2, sequence: { groupOrder: 1 }, include: MORE },
      },
      {
        extends: true,
        test: {
          // With an addon of their own, in which defences can be turned off.
          name: 'faults',
          maxWorkers: 2,
          sequence: { groupOrder: 2 },
          include: FAULTS,
          globalSetup: '__test__/faults/build.ts',
          setupFiles: '__test__/faults/load.ts',
        },
      },
    ],
  },
});
