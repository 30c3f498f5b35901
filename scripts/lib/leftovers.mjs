// Finds and ends processes that a test run left behind.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { failure, sum } from './reports.mjs';
import { read } from './run.mjs';

/**
 * Processes of the run with the given temporary folder: by environment (all children
 * of the run have it as TMPDIR), by working directory (Redis overwrites its environment with its
 * process title), or by command line.
 *
 * @param {string} folder
 * @returns {{ pid: number, command: string }[]}
 */
export function findLeftovers(folder) {
  const found = process.platform === 'linux' ? listProc(folder) : listPs(folder);
  return found.filter(({ pid }) => pid !== process.pid);
}

function listProc(folder) {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const command = attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')) ?? '';
      // An ended process that waits for its parent has no command line.
      if (command === '') return [];
      const traces = [
        command,
        attempt(() => readFileSync(`/proc/${pid}/environ`, 'utf8')),
        attempt(() => readlinkSync(`/proc/${pid}/cwd`)),
      ];
      if (!traces.some((text) => text?.includes(folder))) return [];
      return [{ pid: Number(pid), command: command.replaceAll('\0', ' ').trim() }];
    });
}

function listPs(folder) {
  return (read('ps', ['-axww', '-o', 'pid=,command=']) ?? '')
    .split('\n')
    .filter((line) => line.includes(folder))
    .map((line) => {
      const [pid, ...command] = line.trim().split(/\s+/);
      return { pid: Number(pid), command: command.join(' ') };
    });
}

/** Ends leftovers by pid. SIGKILL, because a stopped process (SIGSTOP) handles no other signal. */
export function endLeftovers(leftovers) {
  for (const { pid } of leftovers) attempt(() => process.kill(pid, 'SIGKILL'));
}

/** Fails the run for every process that still exists shortly after the end of the tests. */
export async function sweepLeftovers(folder) {
  // A server that has just received its signal may need a moment to write its data and end.
  const deadline = Date.now() + 3000;
  let leftovers = findLeftovers(folder);
  while (leftovers.length > 0 && Date.now() < deadline) {
    await delay(50);
    leftovers = findLeftovers(folder);
  }
  endLeftovers(leftovers);
  return sum(leftovers.map(({ pid, command }) => failure(`left behind: ${pid} ${command}`)));
}

// Processes may end during the check, and those of other users may not be readable.
function attempt(body) {
  try {
    return body();
  } catch {
    return undefined;
  }
}
