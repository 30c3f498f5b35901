// `With Lua Scripts`: one EVALSHA for each heartbeat reads, compares, merges and writes in Redis.
// There are two forms. In the first, the caller passes the room. In the second, the caller knows
// only the connection, so the room is read first (HGET). With `publishes`, the same script also
// publishes the event of a patch.
import { TTL_MS } from '../lib/population.mjs';

const SCRIPT = `
local details = redis.call('HMGET', KEYS[1], 'room_id', 'user_id', 'epoch', 'state')
if not details[1] then
  return cjson.encode({ ok = 0, error = 'Connection not found' })
end
local stored = tonumber(details[3]) or 0
local epoch = tonumber(ARGV[5]) or stored
if epoch < stored then
  return cjson.encode({ ok = 0, error = 'Stale epoch', epoch = stored })
end
redis.call('HSET', KEYS[1], 'last_seen_ms', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
if epoch > stored then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[5])
  redis.call('HSET', KEYS[3], ARGV[1], cjson.encode({ userId = details[2], epoch = epoch }))
end
local changed = 0
if ARGV[4] ~= '' then
  local state = cjson.decode(details[4] or '{}')
  for key, value in pairs(cjson.decode(ARGV[4])) do
    state[key] = value
  end
  local text = cjson.encode(state)
  if text ~= details[4] then
    redis.call('HSET', KEYS[1], 'state', text)
    changed = 1
    -- event
  end
end
return cjson.encode({ ok = 1, changed = changed, epoch = epoch })
`;

const EVENT = `
    local event = cjson.encode({ type = 'update', roomId = details[1], userId = details[2],
      connId = ARGV[1], state = state, ts = tonumber(ARGV[2]), epoch = epoch })
    redis.call('PUBLISH', 'prs:{room:' .. details[1] .. '}:events', event)`;

export class Lua {
  #redis;
  #sha;
  #looksUp;
  #script;

  constructor(redis, { looksUp = false, publishes = false } = {}) {
    this.#script = publishes ? SCRIPT.replace('-- event', EVENT) : SCRIPT;
    this.#redis = redis;
    this.#looksUp = looksUp;
  }

  async load() {
    this.#sha = await this.#redis.script('LOAD', this.#script);
    return this;
  }

  async heartbeat({ connId, roomId: given, epoch, patchState }) {
    const roomId = this.#looksUp ? await this.#redis.hget(`prs:conn:${connId}`, 'room_id') : given;
    if (!roomId) throw new Error('Connection not found');
    const text = await this.#redis.evalsha(
      this.#sha,
      3,
      `prs:conn:${connId}`,
      `prs:{room:${roomId}}:last_seen`,
      `prs:{room:${roomId}}:conn_meta`,
      connId,
      Date.now(),
      TTL_MS,
      patchState === undefined ? '' : JSON.stringify(patchState),
      epoch,
    );
    const result = JSON.parse(text);
    if (result.ok === 0) throw new Error(result.error);
    return result.changed === 1;
  }
}
