-- lock_note: writes the ends of lock leases into the index (layout slotted, where the index is in
-- another slot than the locks).
--
-- KEYS[1] – index: lock → when its lease ends
--
-- ARGV[1] – '1' before a lock is acquired or extended, '0' after a lock was checked
-- ARGV[2..] – for each lock: its name, time in ms until its lease ends; -1 if it is not held
--
-- Returns nothing.
--
-- Races: the entry is written before the lock is acquired, so that no held lock lacks an entry, even
-- if the caller dies in between. An overdue entry is being checked, and the check may remove it. The
-- caller that acquires the lock therefore moves an overdue entry, and the check does not remove an
-- entry that is no longer overdue.
-- A result of a check may be old when it is written: the lock may have been acquired again, for a
-- shorter time. An entry is therefore only moved to a later time if it is overdue.
-- @include now
-- @include integer
-- How much longer the index lives than its last entry, if no node checks it (ms).
local MAX_LEFT_ALONE = 60000

local taking, longest = ARGV[1] == '1', 0
for i = 2, #ARGV, 2 do
  local name, left = ARGV[i], tonumber(ARGV[i + 1])
  local ends = tonumber(redis.call('ZSCORE', KEYS[1], name) or math.huge)
  longest = math.max(longest, left)
  if left >= 0 then
    if ends < now or ends > now + left then
      redis.call('ZADD', KEYS[1], integer(now + left), name)
    end
  elseif not taking and ends < now then
    redis.call('ZREM', KEYS[1], name)
  end
end
if redis.call('PTTL', KEYS[1]) < longest + MAX_LEFT_ALONE / 2 then
  redis.call('PEXPIRE', KEYS[1], longest + MAX_LEFT_ALONE)
end
return {}
