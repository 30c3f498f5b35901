// In every process of the fault tests, before anything else: `rollcall` is to load the tests' addon.
// Node.js programs that the tests start inherit it.
import { testAddon } from '../../scripts/lib/build.mjs';

process.env.NAPI_RS_NATIVE_LIBRARY_PATH = testAddon();
