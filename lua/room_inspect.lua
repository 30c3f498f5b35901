-- room_inspect: what has to be done in a room that may be due.
--
-- KEYS[1] – prs:{room}:last_seen   KEYS[2] – prs:{room}:conn_meta   KEYS[3] – prs:{room}:conns
-- KEYS[4] – prs:{room}:members
-- KEYS[5] – on layouts with an outbox: prs:{room}:unsettled
--
-- ARGV[1] – ttl (ms)   ARGV[2] – maximum number of candidates
--
-- Returns {state, wait, connId, conn_meta, …}
-- state: EMPTY: nothing is left of the room; UNSETTLED: its outbox has entries that are not applied;
-- UNEQUAL: its indices differ in size; otherwise SOUND.
-- wait: time in ms until a connection in it can be due (0: now; -1: the room is empty). If all of them
-- have owners: OWNED plus that time.
-- Then the connections that were last seen longer ago than the ttl, or in the future, and those with
-- owners whose TTL has ended, with the raw conn_meta ('' if missing).
--
-- Races: nothing is written. The reply has no times of this server, because other servers have other
-- clocks.
-- @include now
-- @include event
-- @include impossible
local SOUND = 0
local EMPTY = 1
local UNSETTLED = 2
local UNEQUAL = 3

local conns, members = redis.call('SCARD', KEYS[3]), redis.call('SCARD', KEYS[4])
local seen, metas = redis.call('ZCARD', KEYS[1]), redis.call('HLEN', KEYS[2])
local state = SOUND
if KEYS[5] and redis.call('EXISTS', KEYS[5]) == 1 then
  state = UNSETTLED
elseif conns + members + seen + metas == 0 then
  state = EMPTY
elseif conns ~= seen or conns ~= metas or members == 0 or members > conns then
  state = UNEQUAL
end
local ttl = tonumber(ARGV[1])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local wait = -1
if first then
  wait = tonumber(first) < OWNED and math.max(first + ttl - now, 0)
    or math.max(owned_due(first, now) - now, OWNED)
end
if first and redis.call('ZCOUNT', KEYS[1], '(' .. integer(now), owned_score(now)) > 0 then
  wait = 0
end
local answer = { state, integer(wait) }
if wait == 0 then
  local candidates = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(now - ttl),
    'LIMIT', 0, ARGV[2])
  add_impossible(candidates, KEYS[1], now, tonumber(ARGV[2]))
  if #candidates > 0 then
    local found = redis.call('HMGET', KEYS[2], unpack(candidates))
    for i = 1, #candidates do
      answer[#answer + 1] = candidates[i]
      answer[#answer + 1] = found[i] or ''
    end
  end
end
return answer
