// A vitest reporter that writes the tally of a run to the file named by ROLLCALL_TALLY_FILE.
// Vitest's own JSON report lacks the reason given to `ctx.skip`, and files that failed as a whole.
import { writeFileSync } from 'node:fs';

export default class TallyReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const tally = { passed: 0, failed: unhandledErrors.length, skipped: [] };
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const { state, note } = test.result();
        const name = `${module.relativeModuleId} > ${test.fullName}`;
        if (state === 'passed') tally.passed++;
        else if (state === 'skipped')
          tally.skipped.push({ name, reason: note ?? test.options.mode });
        // 'pending': the run was cut short before it.
        else tally.failed++;
      }
      // What fails outside of any test: a file that does not load, a hook.
      tally.failed += module.errors().length;
      for (const suite of module.children.allSuites()) tally.failed += suite.errors().length;
    }
    writeFileSync(process.env.ROLLCALL_TALLY_FILE, JSON.stringify(tally));
  }
}
