// What the process and its JavaScript thread have cost so far.
import { readFileSync } from 'node:fs';

/** CPU time of the whole process, all threads, in milliseconds. */
export function processCpuMs() {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

const task = `/proc/self/task/${process.pid}`;

/** Ways to read the CPU time of the main thread in milliseconds, the most exact first. */
const ways = {
  // Node.js 23.9 and later.
  'process.threadCpuUsage': () => {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1000;
  },
  '/proc/self/task/…/schedstat': () =>
    Number(readFileSync(`${task}/schedstat`, 'utf8').split(' ')[0]) / 1e6,
  '/proc/self/task/…/sched': () =>
    Number(/^se\.sum_exec_runtime\s*:\s*([\d.]+)/m.exec(readFileSync(`${task}/sched`, 'utf8'))[1]),
  // In steps of 10 ms.
  '/proc/self/task/…/stat': () => {
    const text = readFileSync(`${task}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  },
  // No CPU time: the time in which the event loop was not waiting.
  'performance.eventLoopUtilization': () => performance.eventLoopUtilization().active,
};

/** How {@link threadCpuMs} reads it on this machine. */
export const threadClock = Object.keys(ways).find((name) => {
  try {
    return Number.isFinite(ways[name]());
  } catch {
    return false;
  }
});

/** CPU time of the JavaScript thread, native code that it called included, in milliseconds. */
export const threadCpuMs = ways[threadClock];
