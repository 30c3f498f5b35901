// CPU time that the process and its JavaScript thread have used so far.
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
  // The resolution is 10 ms.
  '/proc/self/task/…/stat': () => {
    const text = readFileSync(`${task}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) * 10;
  },
  // Not CPU time: the time in which the event loop did not wait.
  'performance.eventLoopUtilization': () => performance.eventLoopUtilization().active,
};

/** The way in which {@link threadCpuMs} reads the CPU time on this machine. */
export const threadClock = Object.keys(ways).find((name) => {
  try {
    return Number.isFinite(ways[name]());
  } catch {
    return false;
  }
});

/** CPU time of the JavaScript thread in milliseconds, including the native code that it calls. */
export const threadCpuMs = ways[threadClock];
