// Finds or installs a Chromium for the tests of a page.
import { installPackage, locate } from './packages.mjs';

/** With a font: Chromium itself has none, and shows boxes instead of letters. */
const PACKAGES = {
  'apt-get': ['chromium', 'fonts-dejavu-core'],
  dnf: ['chromium', 'dejavu-sans-fonts'],
  apk: ['chromium', 'font-dejavu'],
  pacman: ['chromium', 'ttf-dejavu'],
};

/** A Chromium that is already installed. Synchronous, and changes nothing. */
export function locateChromium() {
  const chosen = process.env.CHROMIUM_BIN;
  return chosen ? chosen : locate(['chromium', 'chromium-browser', 'google-chrome']);
}

/**
 * The path of a Chromium. A missing one is installed by the system's package manager, if that needs
 * no password (and unless ROLLCALL_INSTALL_CHROMIUM=0); `undefined` if that is not possible.
 */
export async function findChromium() {
  const found = locateChromium();
  if (found !== undefined || process.env.ROLLCALL_INSTALL_CHROMIUM === '0') return found;
  return installPackage('Chromium', PACKAGES, locateChromium);
}
