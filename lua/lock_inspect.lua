-- lock_inspect: the holder of a lock, and the number of waiters.
--
-- KEYS[1] – prs:lock:<name>   KEYS[2] – the record of its holder   KEYS[3] – the queue of waiters
-- ARGV[] – none
--
-- Returns {HELD, owner, token or '', ttl left (ms; -1: it has no TTL), waiters} or {FREE}
--
-- Races: none. It only reads, in one step. A record that has ended is left to the scripts that
-- publish its end. After the clock was set back, a lease is not longer than it was granted for.
-- @include now
local HELD = 0
local FREE = 1

local owner = redis.call('GET', KEYS[1])
if not owner then
  return { FREE }
end
local record = redis.call('HMGET', KEYS[2], 'owner', 'token', 'ends', 'ttl')
local ours = record[1] == owner and now < (tonumber(record[3] or '') or 0)
local left = redis.call('PTTL', KEYS[1])
if ours then
  left = math.min(left, tonumber(record[4] or '') or left)
end
return { HELD, owner, ours and record[2] or '', left, redis.call('ZCARD', KEYS[3]) }
