// Bar charts as SVG: one panel for each chart of a scenario, one below the other. The background is
// that of the page and the text follows its colour scheme, so charts are readable on light and dark
// pages.
import { number } from './targets.mjs';

const WIDTH = 800;
const LABELS = 240;
const VALUES = 80;
const BAR = 16;
const GAP = 3;
const GROUP_GAP = 14;
/** Rollcall's colour is the last one, because Rollcall is the last series in every chart. */
const GREYS = ['#9aa5b1', '#7b8794', '#616e7c', '#52606d'];
const ACCENT = '#2f7ed8';

const STYLE = `
  text { font: 12px system-ui, sans-serif; fill: #3e4c59; }
  .title { font-size: 14px; font-weight: 600; }
  .panel { font-weight: 600; }
  .axis { font-size: 11px; fill: #7b8794; }
  .grid { stroke: #7b8794; stroke-opacity: 0.25; }
  @media (prefers-color-scheme: dark) {
    text { fill: #cbd2d9; }
    .axis { fill: #9aa5b1; }
  }`;

/**
 * @param {string} title
 * @param {{ title: string, series: string[], groups: { label: string, values: number[] }[] }[]} panels
 */
export function chart(title, panels) {
  const parts = [];
  let y = 24;
  parts.push(text(16, y, title, 'title'));
  y += 14;
  for (const panel of panels) {
    y += 22;
    parts.push(text(16, y, panel.title, 'panel'));
    y += 12;
    if (panel.series.length > 1) {
      parts.push(legend(panel.series, y));
      y += 24;
    }
    const { body, height } = bars(panel, y);
    parts.push(body);
    y += height;
  }
  const height = y + 12;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}">
<style>${STYLE}
</style>
${parts.join('\n')}
</svg>
`;
}

function bars({ series, groups }, top) {
  const most = Math.max(...groups.flatMap(({ values }) => values).filter(Number.isFinite), 0);
  const step = niceStep(most / 4);
  const end = Math.max(step, Math.ceil(most / step) * step);
  const space = WIDTH - LABELS - VALUES;
  const x = (value) => LABELS + (value / end) * space;
  const groupHeight = series.length * (BAR + GAP) - GAP;
  const height = groups.length * (groupHeight + GROUP_GAP);
  const parts = [];
  for (let value = 0; value <= end * 1.0001; value += step) {
    parts.push(
      `<line class="grid" x1="${round(x(value))}" x2="${round(x(value))}" y1="${top}" y2="${top + height}"/>`,
      text(x(value), top + height + 14, axisNumber(value), 'axis', 'middle'),
    );
  }
  let y = top + GROUP_GAP / 2;
  for (const { label, values } of groups) {
    parts.push(text(LABELS - 10, y + groupHeight / 2 + 4, label, '', 'end'));
    for (const [i, value] of values.entries()) {
      const width = Math.max(1, x(value) - LABELS);
      const colour = colourOf(series.length === 1 ? label : series[i], i);
      parts.push(
        `<rect x="${LABELS}" y="${y}" width="${round(width)}" height="${BAR}" rx="2" fill="${colour}"/>`,
        text(LABELS + width + 6, y + BAR - 4, number(value)),
      );
      y += BAR + GAP;
    }
    y += GROUP_GAP - GAP;
  }
  return { body: parts.join('\n'), height: height + 24 };
}

function legend(series, y) {
  let x = LABELS;
  return series
    .map((name, i) => {
      const at = x;
      x += 22 + name.length * 7;
      return `<rect x="${at}" y="${y}" width="10" height="10" rx="2" fill="${colourOf(name, i)}"/>
${text(at + 15, y + 9, name)}`;
    })
    .join('\n');
}

const OURS = /rollcall|heartbeatMany|reapOnce|resident|with [\d ]+ connections|after /i;

function colourOf(name, i) {
  return OURS.test(name) ? ACCENT : GREYS[i % GREYS.length];
}

/** The smallest number that is 1, 2 or 5 times a power of ten and not less than `min`. */
function niceStep(min) {
  if (!(min > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(min));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= min * 0.999);
}

function axisNumber(value) {
  return value >= 1000
    ? `${Number((value / 1000).toPrecision(6))}k`
    : `${Number(value.toPrecision(6))}`;
}

function text(x, y, content, kind = '', anchor = 'start') {
  const attributes = `${kind && ` class="${kind}"`}${anchor === 'start' ? '' : ` text-anchor="${anchor}"`}`;
  return `<text x="${round(x)}" y="${round(y)}"${attributes}>${escaped(content)}</text>`;
}

const round = (value) => Number(value.toFixed(1));

function escaped(content) {
  return content.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
}
