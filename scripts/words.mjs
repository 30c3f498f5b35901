// `npm run words`: fails for private names that have a standard term. The left side was in use in
// the past; the right side is the standard term. Only names in code are checked, not comments and
// strings.
import { readFileSync } from 'node:fs';
import { inRoot, listed } from './lib/paths.mjs';

const CODE = /\.(rs|lua|ts|mts|mjs)$/;

/** Forbidden in any position. */
const NAMES = {
  'Beaten|PlainBeat|FullBeat': 'HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate',
  'beat_batch|beat_full|beat_isolated': 'refresh_heartbeats, update_heartbeats, refresh_isolated',
  '(?:MOST|LEAST|FEWEST)(?:_[A-Z_]+)?': 'MAX_…, MIN_…',
  'Patience|(?:[A-Z_]+_)?PATIENCE': 'QueueTimeout, …_TIMEOUT',
  'may_tell|tell_holder|goes_on': 'check_publish_acl, notify_holder, allow_write_on_oom',
  'Deaf|Outlet|Perils|Thoroughness|Onlooker|Spurned':
    'NoopSink, ClientCallbacks, ServerFingerprint, CheckSchedule, SweepMode, Declined',
  'InLine|settle_room|take_out|isolate_part': 'WaiterGuard, apply_outbox, evict, skip_corrupt_part',
  'at_claim|at_settle|at_forget': 'location_claim, location_confirm, location_remove',
  'due_take|due_move|user_note|room_look':
    'due_claim, due_reschedule, user_index_set, room_inspect',
  'failedInside|readShown': 'internalError, readDisplayed',
};

/** Forbidden as a new name; the words themselves have other uses. */
const DEFINED = {
  'Ear|Ears|Heard|Placed':
    'SubscriberConnection, ClusterSubscriber, MessageDedup, ActiveSubscriptions',
  'House|Board|Line|Spot|Keeper|Told':
    'ExpiryMonitor, WakeupRegistry, QueuedLock, Waiter, LockBackend, LockLostListener',
  'Exception|Beat|Beats|Mark|Settle|Note':
    'BatchMiss, HeartbeatResult, SettledHeartbeats, StateEncoding, ResultSink, OutboxEntry',
  'Before|Standing|Remembered|Spliced|Touched|Defence':
    'PreviousPlace, Topology, RecordCache, TextTemplate, ChangedItems, Failpoint',
  'tell|told|tells|tend|mend|fly|recall|shown|isolate':
    'notify or emit, process_due_rooms, reindex, send_batch, load_cached, display, skip_corrupt',
  'confident|quiet|aside|homeless|suspect|patience':
    'expected_epoch, revision_trusted, large_state, unrouted, health_check, queue_timeout',
};

const rules = [
  ...Object.entries(NAMES).map(([names, use]) => [new RegExp(`\\b(${names})\\b`, 'g'), use]),
  ...Object.entries(DEFINED).map(([names, use]) => [
    new RegExp(
      `\\b(?:struct|enum|trait|type|class|interface|fn|function|mod|let|let mut|const|static|local) (${names})\\b`,
      'g',
    ),
    use,
  ]),
];

/** The code without comments and strings, with unchanged line numbers. */
function bare(text, isLua) {
  const comments = isLua ? /--[^\n]*/g : /\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  const blank = (found) => found.replace(/[^\n]/g, ' ');
  return text
    .replace(/"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.){2,}'/g, blank)
    .replace(comments, blank);
}

const files = listed().filter((file) => CODE.test(file) && /^(src|lua|js)\//.test(file));
const found = [];
for (const file of files) {
  const text = bare(readFileSync(inRoot(file), 'utf8'), file.endsWith('.lua'));
  for (const [rule, use] of rules) {
    for (const match of text.matchAll(rule)) {
      const line = text.slice(0, match.index).split('\n').length;
      found.push(`${file}:${line}: ${match[1]}; use ${use}`);
    }
  }
}
if (found.length > 0) {
  console.error(found.join('\n'));
  process.exitCode = 1;
}
