-- sweep_room: which connections of a due room may be dead; if none, when to look again.
--
-- KEYS[1] – prs:{room}:last_seen   KEYS[2] – prs:{room}:conn_meta   KEYS[3] – prs:{room}:conns
-- KEYS[4] – prs:active_rooms       KEYS[5] – the room's shard of the due index
--
-- ARGV[1] – roomId   ARGV[2] – ttl (ms)   ARGV[3] – how many candidates at most
--
-- Returns {}: nothing in the room is due, its entry has been moved or removed
--      or {connId, conn_meta, connId, conn_meta, …}: last seen longer ago than the ttl, with their
--         raw conn_meta ('' if missing). Nothing was written; reap.lua looks again and decides.
--
-- Races: a join that comes after this step lowers the entry again (ZADD LT).
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ttl = tonumber(ARGV[2])

local candidates = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ttl, 'LIMIT', 0, ARGV[3])
if #candidates == 0 then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  if first[2] then
    redis.call('ZADD', KEYS[5], tonumber(first[2]) + ttl, ARGV[1])
  elseif redis.call('EXISTS', KEYS[3]) == 1 then
    redis.call('ZADD', KEYS[5], now + ttl, ARGV[1])
  else
    redis.call('ZREM', KEYS[5], ARGV[1])
    redis.call('SREM', KEYS[4], ARGV[1])
  end
  return {}
end
local metas = redis.call('HMGET', KEYS[2], unpack(candidates))
local answer = {}
for i = 1, #candidates do
  answer[2 * i - 1] = candidates[i]
  answer[2 * i] = metas[i] or ''
end
return answer
