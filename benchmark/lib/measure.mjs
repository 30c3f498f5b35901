// Measures the cost of a piece of work for the process, its JavaScript thread and the server.
import { processCpuMs, threadCpuMs } from './clock.mjs';

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** CPU time of the server's main thread so far, in milliseconds (of all threads before Redis 7). */
export async function serverCpuMs(redis) {
  const info = parseInfo(await redis.info('cpu'));
  const of = (kind) => Number(info[`${kind}_main_thread`] ?? info[kind]) * 1000;
  return of('used_cpu_user') + of('used_cpu_sys');
}

/** Calls and execution time of each command so far, including commands that scripts call. */
async function commandStats(redis) {
  const info = parseInfo(await redis.info('commandstats'));
  return Object.fromEntries(
    Object.entries(info).map(([name, text]) => {
      const fields = Object.fromEntries(text.split(',').map((field) => field.split('=')));
      return [
        name.replace('cmdstat_', ''),
        { calls: Number(fields.calls), usec: Number(fields.usec) },
      ];
    }),
  );
}

async function statsOfAll(servers) {
  const total = {};
  for (const stats of await Promise.all(servers.map(commandStats))) {
    for (const [name, { calls, usec }] of Object.entries(stats)) {
      total[name] ??= { calls: 0, usec: 0 };
      total[name].calls += calls;
      total[name].usec += usec;
    }
  }
  return total;
}

function parseInfo(text) {
  const fields = text.split('\r\n').flatMap((line) => {
    const at = line.indexOf(':');
    return at > 0 ? [[line.slice(0, at), line.slice(at + 1)]] : [];
  });
  return Object.fromEntries(fields);
}

/**
 * Runs `work`, which resolves to `{ ops, …more }`, and adds its costs. `control` is an ioredis
 * client that nothing else uses, or a list with one client for each server of a cluster; the costs
 * of all servers are added. The requests to the servers are not part of the measurement.
 */
export async function measure(control, work) {
  globalThis.gc?.();
  const servers = [control].flat();
  const spent = async () => sum(await Promise.all(servers.map(serverCpuMs)));
  const stats = await statsOfAll(servers);
  const server = await spent();
  const cpu = processCpuMs();
  const thread = threadCpuMs();
  const start = performance.now();
  const { ops, ...more } = await work();
  const ms = performance.now() - start;
  const threadMs = threadCpuMs() - thread;
  const cpuMs = processCpuMs() - cpu;
  const serverMs = (await spent()) - server;
  const commands = difference(await statsOfAll(servers), stats);
  const calls = sum(Object.values(commands).map((command) => command.calls));
  return {
    ops,
    seconds: ms / 1000,
    opsPerSecond: (ops / ms) * 1000,
    redisOpsPerSecond: (calls / ms) * 1000,
    memoryUsageMB: process.memoryUsage.rss() / 2 ** 20,
    cpuUsagePercent: (cpuMs / ms) * 100,
    redisCpuPercent: (serverMs / ms) * 100,
    jsThreadMicros: (threadMs / ops) * 1000,
    nodeCpuMicros: (cpuMs / ops) * 1000,
    redisCpuMicros: (serverMs / ops) * 1000,
    commands,
    ...more,
  };
}

function difference(after, before) {
  const changed = Object.entries(after).flatMap(([name, { calls, usec }]) => {
    const was = before[name] ?? { calls: 0, usec: 0 };
    const more = { calls: calls - was.calls, usec: usec - was.usec };
    return more.calls > 0 && name !== 'info' ? [[name, more]] : [];
  });
  return Object.fromEntries(changed);
}
