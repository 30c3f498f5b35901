-- lock_raise: saves a token that the lock was granted with on a majority of servers.
--
-- KEYS[1] – prs:lock:<name>   KEYS[2] – its newest token   KEYS[3] – the record of its holder
-- ARGV[1] – by: proof of the holder   ARGV[2] – the token   ARGV[3] – how long it is kept (ms)
--
-- Returns {RAISED} or {NEWER, token}: this server knows a newer one
--
-- Races: the stored token only grows, in whatever order calls arrive.
local RAISED = 0
local NEWER = 1

local stored = redis.call('GET', KEYS[2])
if stored and tonumber(stored) > tonumber(ARGV[2]) then
  return { NEWER, stored }
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
if redis.call('HGET', KEYS[3], 'by') == ARGV[1] then
  redis.call('HSET', KEYS[3], 'token', ARGV[2])
end
return { RAISED }
