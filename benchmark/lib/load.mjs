// Heartbeat loads. Closed loop: a fixed number of heartbeats is in flight at all times. Open loop:
// a fixed number of heartbeats is sent per second, independent of their results.
//
// Latency is the time from the call until the Promise settles. Under load it is sampled. The
// sampling step shares no factor with batch sizes, so that reading the clock does not distort the
// measurement.
import { Samples } from './statistics.mjs';

const SAMPLE_EVERY = 7;

/**
 * @param {(person: object) => Promise<unknown>} heartbeat
 * @param {object[]} list connections, in order, repeatedly
 */
export function closedLoop(
  heartbeat,
  list,
  { inFlight, ms, ops: most = Number.POSITIVE_INFINITY },
) {
  const samples = new Samples();
  const every = inFlight === 1 ? 1 : SAMPLE_EVERY;
  let started = 0;
  let flying = 0;
  let stopped = false;
  return new Promise((resolve, reject) => {
    const timer = ms && setTimeout(stop, ms);
    function stop() {
      stopped = true;
    }
    function fail(error) {
      stopped = true;
      clearTimeout(timer);
      reject(error);
    }
    function next() {
      flying--;
      start();
    }
    function start() {
      if (stopped || started === most) {
        if (flying === 0) {
          clearTimeout(timer);
          resolve({ ops: started, ...latencies(samples) });
        }
        return;
      }
      flying++;
      const person = list[started % list.length];
      if (started++ % every === 0) {
        const since = performance.now();
        heartbeat(person).then(() => {
          samples.add(performance.now() - since);
          next();
        }, fail);
      } else {
        heartbeat(person).then(next, fail);
      }
    }
    for (let i = 0; i < inFlight; i++) start();
  });
}

/** Each tick of about a millisecond makes the calls that are due. */
export function openLoop(heartbeat, list, { perSecond, ms }) {
  const samples = new Samples();
  const late = new Samples(1 << 16);
  const total = Math.round((perSecond * ms) / 1000);
  const every = perSecond > 1000 ? SAMPLE_EVERY : 1;
  return new Promise((resolve, reject) => {
    const start = performance.now();
    let started = 0;
    let settled = 0;
    const done = () => {
      if (++settled === total) {
        resolve({ ops: total, sentLateP99: late.percentile(0.99), ...latencies(samples) });
      }
    };
    const tick = () => {
      const elapsed = performance.now() - start;
      const due = Math.min(total, Math.floor((elapsed * perSecond) / 1000) + 1);
      if (started < due) late.add(elapsed - (started / perSecond) * 1000);
      while (started < due) {
        const person = list[started % list.length];
        if (started++ % every === 0) {
          const since = performance.now();
          heartbeat(person).then(() => {
            samples.add(performance.now() - since);
            done();
          }, reject);
        } else {
          heartbeat(person).then(done, reject);
        }
      }
      if (started < total) setTimeout(tick, 1);
    };
    tick();
  });
}

function latencies(samples) {
  return {
    heartbeatLatencyP50: samples.percentile(0.5),
    heartbeatLatencyP99: samples.percentile(0.99),
  };
}
