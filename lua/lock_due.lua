-- lock_due: the locks whose lease has ended, according to the index.
--
-- KEYS[1] – index: lock → when its lease ends
-- ARGV[1] – maximum number   ARGV[2] – how many to skip: locks that could not be checked
-- ARGV[3] – '1': the locks of all entries, whenever they end
--
-- Returns {the server's time (ms), ms until the next one is due or -1 if there is none, name, name, …}
--
-- Races: the index is only a hint. lock_settle.lua checks whether a lock has ended. An index key of
-- another type is useless, so it is removed. Holders that renew their locks write it again.
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
