// Tables and charts of scenarios that run every subject in several cases: a table for each case
// with a row for each subject, and a chart for each metric with a group for each case.
import { medians } from './statistics.mjs';

/**
 * @param {{ key: string, title: string }[]} cases
 * @param {Record<string, string>} labels of the subjects, by their keys
 * @param {Record<string, Record<string, object[]>>} rounds by case and subject
 */
export function gridTables(cases, labels, rounds, columns) {
  return cases.map(({ key, title }) => ({
    title,
    columns,
    rows: Object.entries(labels).map(([subject, label]) => ({
      label,
      values: medians(rounds[key][subject]),
    })),
  }));
}

/** @param {[title: string, metric: string][]} metrics; the other parameters as for `gridTables` */
export function gridCharts(cases, labels, rounds, metrics) {
  return metrics.map(([title, metric]) => ({
    title,
    series: Object.values(labels),
    groups: cases.map((one) => ({
      label: one.title,
      values: Object.keys(labels).map((subject) => medians(rounds[one.key][subject])[metric]),
    })),
  }));
}
