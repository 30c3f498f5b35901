// How vitest runs the JavaScript tests. (.mts: vitest is ESM only, this package is CommonJS.)
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    // The package under test is loaded by Node.js itself, as its users load it: vitest would give
    // the ESM entry a second copy of the CommonJS modules behind it.
    server: { deps: { external: [/\/(dist|binding)\//] } },
    // A process for each test file: a native addon is tested as it is used, and a crash or a
    // leaked handle in one file cannot touch another.
    pool: 'forks',
    // Each worker may run a Redis server and child processes of its own beside itself.
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 30_000,
    teardownTimeout: 10_000,
    projects: [
      {
        extends: true,
        test: {
          name: 'rollcall',
          include: ['__test__/**/*.test.ts'],
          exclude: ['__test__/faults/**'],
        },
      },
      {
        extends: true,
        test: {
          // With an addon of their own, in which defences can be turned off.
          name: 'faults',
          include: ['__test__/faults/**/*.test.ts'],
          globalSetup: '__test__/faults/build.ts',
          setupFiles: '__test__/faults/load.ts',
        },
      },
    ],
  },
});
