// The list of what happened, newest first.

import { byId, element } from './ui.mjs';

const MOST = 100;

/** @param {number} ts when it happened, in milliseconds since 1970; now if left out */
export function addToLog(kind, who, what, ts = Date.now()) {
  const log = byId('log');
  const time = element('time', {}, new Date(ts).toLocaleTimeString('en-GB'));
  log.prepend(
    element(
      'li',
      { 'data-kind': kind },
      time,
      element('span', {}, element('b', {}, who), ` ${what}`),
    ),
  );
  while (log.children.length > MOST) log.lastChild.remove();
}
