-- sweep_candidates: the connections of a room that were last heard of longer ago than the ttl, or in the
-- future: after a step back of the server's clock, or from a legacy node whose clock is ahead.
--
-- KEYS[1] – prs:{room}:last_seen   KEYS[2] – prs:{room}:conn_meta
-- ARGV[1] – ttl (ms)   ARGV[2] – how many at most
--
-- Returns {connId, conn_meta, connId, conn_meta, …}, with the raw conn_meta ('' if missing).
--
-- Races: nothing is written; reap.lua looks again and decides.
-- @include now
-- @include impossible
local candidates = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]),
  'LIMIT', 0, ARGV[2])
add_impossible(candidates, KEYS[1], now, tonumber(ARGV[2]))
if #candidates == 0 then
  return {}
end
local metas = redis.call('HMGET', KEYS[2], unpack(candidates))
local answer = {}
for i = 1, #candidates do
  answer[2 * i - 1] = candidates[i]
  answer[2 * i] = metas[i] or ''
end
return answer
