// The subjects of heartbeat loads: the same 1000 connections, refreshed in different ways.
import { AsWritten } from '../baselines/as-written.mjs';
import { Batching } from '../baselines/batching.mjs';
import { Lua } from '../baselines/lua.mjs';
import { connectIoredis, connectRollcall } from './connect.mjs';
import { closedLoop, openLoop } from './load.mjs';
import { measure } from './measure.mjs';
import { joinAll, people, seed } from './population.mjs';

/** 100 rooms with 10 users each. */
export const CROWD = { rooms: 100, perRoom: 10 };

/** A subject with the method `heartbeat`: `{ ms, inFlight }` or `{ ms, perSecond }`. */
async function heartbeater(env, list, heartbeat, more = {}) {
  const control = connectIoredis(env);
  return {
    heartbeat: async ({ perSecond, ...load }) => {
      const run = () =>
        perSecond === undefined
          ? closedLoop(heartbeat, list, load)
          : openLoop(heartbeat, list, { perSecond, ...load });
      const result = await measure(control, run);
      await checkRefreshed(control, list, result);
      return result;
    },
    ...more,
  };
}

/** Checks that the heartbeats were applied: each connection was last seen within the round. */
async function checkRefreshed(control, list, { ops, seconds }) {
  const someone = list[(ops - 1) % list.length];
  const seen = Number(await control.hget(`prs:conn:${someone.connId}`, 'last_seen_ms'));
  const ago = Date.now() - seen;
  if (!(ago < seconds * 1000 + 1000)) throw new Error(`last seen ${ago} ms ago: no heartbeat came`);
}

async function onIoredis(env, make) {
  const list = people(CROWD);
  const redis = connectIoredis(env);
  await seed(redis, list);
  const service = await make(redis);
  return heartbeater(env, list, (person) => service.heartbeat(person));
}

export const heartbeaters = {
  baseline: (env) => onIoredis(env, (redis) => new AsWritten(redis)),
  batching: (env) => onIoredis(env, (redis) => new Batching(redis)),
  lua: (env) => onIoredis(env, (redis) => new Lua(redis).load()),
  luaLookup: (env) => onIoredis(env, (redis) => new Lua(redis, { looksUp: true }).load()),
  async rollcall(env) {
    const client = await connectRollcall(env);
    const list = people(CROWD);
    await joinAll(client, list);
    const heartbeat = ({ connId, epoch }) => client.heartbeat({ connId, epoch });
    return heartbeater(env, list, heartbeat, { metrics: () => client.metrics() });
  },
  /** The load itself: a heartbeat that does nothing. Every figure includes its cost. */
  async nothing(env) {
    const control = connectIoredis(env);
    const list = people(CROWD);
    const settled = Promise.resolve();
    const heartbeat = ({ connId, epoch }) => nothing({ connId, epoch });
    const nothing = (options) => (options.epoch === 0 ? settled : Promise.reject());
    return {
      heartbeat: ({ inFlight, ops }) =>
        measure(control, () => closedLoop(heartbeat, list, { inFlight, ops })),
    };
  },
};

export const LABELS = {
  baseline: 'Baseline (Current)',
  batching: 'With Batching',
  lua: 'With Lua Scripts',
  luaLookup: 'With Lua Scripts, room read first',
  rollcall: 'Rollcall',
};
