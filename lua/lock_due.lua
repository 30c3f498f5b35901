-- lock_due: the locks whose lease has ended by the index.
--
-- KEYS[1] – index: lock → when its lease ends
-- ARGV[1] – how many at most   ARGV[2] – how many to skip: locks that could not be looked at
-- ARGV[3] – '1': the locks of all entries, whenever they end
--
-- Returns {the server's time (ms), ms until the next one is due or -1 if there is none, name, name, …}
--
-- Races: only a hint of where to look; what has ended is decided by looking again (lock_settle.lua). An
-- index that holds another type of value serves nobody: it is removed, and holders that renew their
-- locks write it anew.
-- @include now
local due = redis.pcall('ZRANGEBYSCORE', KEYS[1], '-inf',
  ARGV[3] == '1' and '+inf' or '(' .. string.format('%.0f', now), 'LIMIT', ARGV[2], ARGV[1])
if due.err then
  if not string.find(due.err, 'WRONGTYPE', 1, true) then
    return due
  end
  redis.call('DEL', KEYS[1])
  due = {}
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local left = first[2] and math.max(0, tonumber(first[2]) + 1 - now) or -1
table.insert(due, 1, left)
table.insert(due, 1, now)
return due
