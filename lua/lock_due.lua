-- lock_due: the locks whose lease has ended by the index.
--
-- KEYS[1] – index: lock → when its lease ends
-- ARGV[1] – how many at most
--
-- Returns {ms until the next one is due, -1 if there is none, name, name, …}
--
-- Races: only a hint of where to look; what has ended is decided by looking again (lock_settle.lua).
-- @include now
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now),
  'LIMIT', 0, ARGV[1])
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local left = first[2] and math.max(0, tonumber(first[2]) + 1 - now) or -1
table.insert(due, 1, left)
return due
