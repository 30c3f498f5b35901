// A vitest reporter that writes the tally of a run to the file in ROLLCALL_TALLY_FILE. Vitest's
// JSON report lacks the reasons of `ctx.skip`, and files that failed as a whole.
import { writeFileSync } from 'node:fs';

/** The first line of an error, for the list of failures. */
function firstLine(error) {
  return String(error.message ?? error).split('\n')[0];
}

export default class TallyReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const tally = { passed: 0, failed: 0, failures: [], skipped: [] };
    const fail = (name, errors = []) => {
      tally.failed++;
      tally.failures.push(errors.length > 0 ? `${name}: ${firstLine(errors[0])}` : name);
    };
    for (const module of modules) {
      const file = module.relativeModuleId;
      for (const test of module.children.allTests()) {
        const { state, note, errors } = test.result();
        const name = `${file} > ${test.fullName}`;
        if (state === 'passed') tally.passed++;
        else if (state === 'skipped')
          tally.skipped.push({ name, reason: note ?? test.options.mode });
        // 'pending': the run was aborted before this test.
        else fail(name, errors);
      }
      // Failures outside of any test: a file that does not load, a hook.
      for (const error of module.errors()) fail(file, [error]);
      for (const suite of module.children.allSuites()) {
        for (const error of suite.errors()) fail(`${file} > ${suite.fullName}`, [error]);
      }
    }
    for (const error of unhandledErrors) fail(`unhandled ${error.name ?? 'error'}`, [error]);
    writeFileSync(process.env.ROLLCALL_TALLY_FILE, JSON.stringify(tally));
  }
}
