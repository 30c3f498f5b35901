// Runs first in every process of the fault tests: `rollcall` then loads the addon with failpoints.
// Node.js programs that the tests start inherit it.
import { testAddon } from '../../scripts/lib/build.mjs';

process.env.NAPI_RS_NATIVE_LIBRARY_PATH = testAddon();
