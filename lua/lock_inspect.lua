-- lock_inspect: who holds a lock, and how many wait for it.
--
-- KEYS[1] – prs:lock:<name>   KEYS[2] – the record of its holder   KEYS[3] – the queue of waiters
-- ARGV[] – none
--
-- Returns {HELD, owner, token or '', ttl left (ms; -1: it never ends), waiters} or {FREE}
--
-- Races: none: it only reads, at one moment. A record that has ended is left to those that tell of it.
-- @include now
local HELD = 0
local FREE = 1

local owner = redis.call('GET', KEYS[1])
if not owner then
  return { FREE }
end
local record = redis.call('HMGET', KEYS[2], 'owner', 'token', 'ends')
local ours = record[1] == owner and now < tonumber(record[3])
return { HELD, owner, ours and record[2] or '', redis.call('PTTL', KEYS[1]),
  redis.call('ZCARD', KEYS[3]) }
