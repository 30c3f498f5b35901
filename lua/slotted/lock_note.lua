-- lock_note: notes in the index when the leases of locks end (layout slotted, where the index is in
-- another slot than the locks).
--
-- KEYS[1] – index: lock → when its lease ends
--
-- ARGV[1] – '1' by whoever is about to take or extend the lock, '0' by whoever has looked at it
-- ARGV[2..] – for each lock: its name, in how many ms its lease ends; -1 if it is not held
--
-- Returns nothing.
--
-- Races: it is noted before a lock is taken, so that none is held without an entry, whoever ends half
-- way. An entry that is overdue is being looked at, and may be taken out by whoever does: so it is moved
-- by who takes the lock, and one that is not overdue any more stays.
-- @include now
-- @include integer
-- How much longer than its last entry the index stays, where nobody is left to look at it (ms).
local MAX_LEFT_ALONE = 60000

local taking, longest = ARGV[1] == '1', 0
for i = 2, #ARGV, 2 do
  local name, left = ARGV[i], tonumber(ARGV[i + 1])
  local ends = tonumber(redis.call('ZSCORE', KEYS[1], name) or math.huge)
  longest = math.max(longest, left)
  if taking then
    if ends < now or ends > now + left then
      redis.call('ZADD', KEYS[1], integer(now + left), name)
    end
  elseif left >= 0 then
    redis.call('ZADD', KEYS[1], integer(now + left), name)
  elseif ends < now then
    redis.call('ZREM', KEYS[1], name)
  end
end
if redis.call('PTTL', KEYS[1]) < longest + MAX_LEFT_ALONE / 2 then
  redis.call('PEXPIRE', KEYS[1], longest + MAX_LEFT_ALONE)
end
return {}
