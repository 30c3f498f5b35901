// Small helpers that draw: elements, colours, figures. Text goes in as text, never as markup.

export function byId(id) {
  return document.getElementById(id);
}

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Dark enough for white text on it, on a light page as on a dark one. */
const COLORS = [
  '#0f766e',
  '#b45309',
  '#6d28d9',
  '#be123c',
  '#1d4ed8',
  '#4d7c0f',
  '#a21caf',
  '#0e7490',
];

/** The same colour for a name in every tab. */
export function colorOf(name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) >>> 0;
  return COLORS[hash % COLORS.length];
}

/** The colour in a state, which comes from anybody: only if it is one. */
export function colorIn(state) {
  return /^#[0-9a-f]{6}$/.test(state?.color) ? state.color : undefined;
}

/** What metrics() holds that tells most at a glance. */
const FIGURES = [
  ['Heartbeats', (m) => m.heartbeats],
  ['Heartbeats a batch', (m) => m.heartbeatBatchSize.mean, 1],
  ['Heartbeat P50', (m) => m.heartbeatLatencyMs.p50, 2, 'ms'],
  ['Heartbeat P99', (m) => m.heartbeatLatencyMs.p99, 2, 'ms'],
  ['Events', (m) => m.events],
  ['Joins', (m) => m.joins],
  ['Leaves', (m) => m.leaves],
  ['Timed out', (m) => m.expired],
];

export function showFigures(list, metrics) {
  list.replaceChildren(
    ...FIGURES.map(([name, read, digits = 0, unit = '']) => {
      const value = read(metrics) ?? 0;
      const text = value.toLocaleString('en', {
        minimumFractionDigits: digits,
        maximumFractionDigits: digits,
      });
      return element(
        'div',
        {},
        element('dt', {}, name),
        element('dd', {}, unit === '' ? text : `${text} ${unit}`),
      );
    }),
  );
}
