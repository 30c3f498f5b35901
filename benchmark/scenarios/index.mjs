// The list of all scenarios, in the order in which they run.
//
// A scenario is `{ name, title, about, subjects, run }`. `subjects` are functions that open the
// measured subjects, each in its own process (worker.mjs), and return their methods. `run` starts
// subjects, runs them in alternation, and returns `{ tables, targets, charts, notes?, rounds }`.
import heartbeats from '../presence-optimizations.mjs';
import cluster from './cluster.mjs';
import clusterEvents from './cluster-events.mjs';
import codecs from './codecs.mjs';
import events from './events.mjs';
import heartbeatMany from './heartbeat-many.mjs';
import join from './join.mjs';
import latency from './latency.mjs';
import leave from './leave.mjs';
import locks from './locks.mjs';
import memory from './memory.mjs';
import metadata from './metadata.mjs';
import metadataJson from './metadata-json.mjs';
import patches from './patches.mjs';
import reaper from './reaper.mjs';
import reaping from './reaping.mjs';
import serverLimit from './server-limit.mjs';
import snapshot from './snapshot.mjs';
import state from './state.mjs';
import statePatches from './state-patches.mjs';
import swap from './swap.mjs';

export const scenarios = [
  heartbeats,
  serverLimit,
  latency,
  patches,
  heartbeatMany,
  snapshot,
  join,
  leave,
  events,
  reaper,
  reaping,
  metadata,
  memory,
  locks,
  swap,
  state,
  statePatches,
  metadataJson,
  codecs,
  cluster,
  clusterEvents,
];

export function findScenario(name) {
  return scenarios.find((scenario) => scenario.name === name);
}
