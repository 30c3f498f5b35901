// The core's clock. JavaScript compares times with `performance.now()`, which is faster to read.

import type { NativeClient } from '../binding/binding.js';

/**
 * Add this to a time of the core's clock to get one of `performance.now()`. Computed each time: on
 * some systems only one of the clocks continues while the machine sleeps.
 */
export function coreClockOffset(core: Pick<NativeClient, 'lockClock'>): number {
  // In this order of reads the result may be too small, but never too large: leases end early, not
  // late.
  return performance.now() - core.lockClock();
}
