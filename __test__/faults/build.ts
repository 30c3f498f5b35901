// Runs before the fault tests: builds the addon with failpoints if necessary.
import { buildTestAddon } from '../../scripts/lib/build.mjs';

export default async function setup(): Promise<void> {
  await buildTestAddon();
}
