// The table of docs/reference/what-it-costs.md: what one operation costs Redis and the process, by Rollcall and by
// what a service would write on ioredis. The figures are those of the scenarios.
import { number } from './targets.mjs';

const MANY = 'many in flight';
const ALONE = 'one at a time';
const OURS = 'Rollcall';
const NONE = '–';

/** Each: the operation, the load, the form on ioredis, and where the figures are. */
const OPERATIONS = [
  {
    operation: 'heartbeat',
    load: MANY,
    other: 'one script call each',
    scenario: 'heartbeats',
    table: '256 in flight',
    rows: [OURS, 'With Lua Scripts'],
    latency: 'heartbeatLatencyP50',
  },
  {
    operation: 'heartbeat',
    load: ALONE,
    other: 'the same script call',
    scenario: 'latency',
    table: '1 in flight',
    rows: [OURS, 'bare EVALSHA through ioredis'],
    latency: 'heartbeatLatencyP50',
  },
  {
    operation: 'heartbeat with a patch, and its event',
    load: MANY,
    other: 'one script call each',
    scenario: 'patches',
    table: '256 in flight',
    rows: [OURS, 'With Lua Scripts'],
    latency: 'heartbeatLatencyP50',
  },
  {
    operation: 'heartbeat with a patch, and its event',
    load: ALONE,
    other: 'one script call each',
    scenario: 'patches',
    table: '1 in flight',
    rows: [OURS, 'With Lua Scripts'],
    latency: 'heartbeatLatencyP50',
  },
  {
    operation: 'join a room of 1000, with its snapshot',
    load: ALONE,
    other: 'transaction, then pipelined HGETALL',
    scenario: 'join',
    table: 'from 1000 members on',
    rows: [OURS, 'Baseline (Current)'],
    latency: 'ms',
  },
  {
    operation: 'snapshot of a room of 1000',
    load: ALONE,
    other: 'pipelined HGETALL',
    scenario: 'snapshot',
    table: '1000 members',
    rows: [OURS, 'HGETALL pipelined through ioredis'],
    latency: 'ms',
  },
  {
    operation: 'leave a room of 20',
    load: ALONE,
    other: 'transaction',
    scenario: 'leave',
    table: 'rooms of 20',
    rows: [OURS, 'Baseline (Current)'],
  },
  {
    operation: 'receive an event',
    load: '20 000 a second',
    other: 'psubscribe, JSON.parse',
    scenario: 'events',
    table: '20 000 events a second',
    rows: ['Rollcall, all rooms', 'ioredis psubscribe + JSON.parse'],
  },
  {
    operation: 'receive an event',
    load: ALONE,
    other: 'psubscribe, JSON.parse',
    scenario: 'events',
    table: 'From PUBLISH to the handler, one event at a time, 0 ms apart',
    rows: ['Rollcall, all rooms', 'ioredis psubscribe + JSON.parse'],
    latency: 'heartbeatLatencyP50',
  },
  {
    operation: 'acquire and release a free lock',
    load: ALONE,
    other: 'SET NX PX, compare-and-delete',
    scenario: 'locks',
    table: 'without contention, 1 at a time',
    rows: [OURS, 'SET NX, again every 50 ms'],
    latency: 'pairP50',
  },
  {
    operation: 'update metadata',
    load: ALONE,
    other: 'WATCH, HGETALL, MULTI',
    scenario: 'metadata',
    table: 'one writer',
    rows: [OURS, 'WATCH/MULTI, one at a time in the process'],
    latency: 'latencyP50',
  },
];

const COLUMNS = [
  ['Redis µs', 'redisCpuMicros'],
  ['Node µs', 'nodeCpuMicros'],
];

/** The cells of the table. Operations whose scenario has not run are left out. */
export function costs(results) {
  const head = ['operation', 'load', 'beside it'];
  for (const [label] of [...COLUMNS, ['median ms']]) head.push(label, 'ioredis');
  const rows = OPERATIONS.flatMap((one) => {
    const result = results.find(({ scenario }) => scenario === one.scenario);
    if (result === undefined) return [];
    const table = result.tables.find(({ title }) => title === one.table);
    if (table === undefined) throw new Error(`${one.scenario}: no table ${one.table}`);
    const [ours, other] = one.rows.map((label) => {
      const row = table.rows.find((row) => row.label === label);
      if (row === undefined) throw new Error(`${one.scenario}, ${one.table}: no row ${label}`);
      return row.values;
    });
    const keys = [...COLUMNS.map(([, key]) => key), one.latency];
    const cells = keys.flatMap((key) =>
      [ours, other].map((values) => (key === undefined ? NONE : number(values[key]))),
    );
    return [[one.operation, one.load, one.other, ...cells]];
  });
  return [head, ...rows];
}
