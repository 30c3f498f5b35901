// Tables: as text for the terminal, and as Markdown for the document.
import { number } from './targets.mjs';

/** The cells of a scenario's table; the first row is the heading. */
export function cellsOf({ title, columns, rows }) {
  return [
    [title, ...columns.map(({ label }) => label)],
    ...rows.map(({ label, values }) => [
      label,
      ...columns.map(({ key, digits }) =>
        digits === undefined ? number(values[key]) : values[key].toFixed(digits),
      ),
    ]),
  ];
}

/** The cells of a list of targets. */
export function cellsOfTargets(targets) {
  return [
    ['', 'what', 'target', 'measured', 'met'],
    ...targets.map(({ item, what, target, measured, met }) => [
      item,
      what,
      target,
      measured,
      met ? 'yes' : 'NO',
    ]),
  ];
}

/** @param {string[][]} cells @param {number} left how many columns are aligned to the left */
export function asText(cells, left = 1) {
  const widths = widthsOf(cells);
  const lines = cells.map((row) =>
    row
      .map((cell, i) => (i < left ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
      .join('  ')
      .trimEnd(),
  );
  lines.splice(1, 0, widths.map((width) => '─'.repeat(width)).join('  '));
  return lines.join('\n');
}

export function asMarkdown(cells, left = 1) {
  const line = (row) => `| ${row.join(' | ')} |`;
  const [head, ...rows] = cells;
  const rule = head.map((_, i) => (i < left ? '---' : '---:'));
  return [head, rule, ...rows].map(line).join('\n');
}

function widthsOf(cells) {
  return cells[0].map((_, i) => Math.max(...cells.map((row) => row[i].length)));
}
