// Before any fault test: the addon in which defences can be turned off is built, if it is not.
import { buildTestAddon } from '../../scripts/lib/build.mjs';

export default async function setup(): Promise<void> {
  await buildTestAddon();
}
