-- location_claim: gives a join its epoch and notes where the connection is about to be (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – userId   ARGV[3] – the least epoch that the join may get
-- ARGV[4] – for how long a claim stays that nobody settles (ms)
--
-- Returns {CLAIMED, epoch, field, value, …}: the fields that were there before
--      or {EARLY, wait}: the clock has not come to the epoch; nothing written, call again in wait ms
--
-- Races: joins of one connection, to whatever rooms, get their epochs here, one after the other; the
-- later one sees the earlier one's claim. A claim is a hint: the room decides who is in it.
-- @include now
-- @include event
-- @include at
local CLAIMED = 0
local EARLY = 1

-- An epoch that is further ahead of the clock was given by a caller; waiting is no help.
local MAX_WAIT = 5

local before = redis.call('HGETALL', KEYS[1])
local epoch = math.max(now, tonumber(ARGV[3]))
for i = 2, #before, 2 do
  epoch = math.max(epoch, epoch_of(before[i]) + 1)
end
if epoch > now and epoch - now <= MAX_WAIT then
  return { EARLY, epoch - now }
end
redis.call('HSET', KEYS[1], 'c:' .. ARGV[1], integer(epoch) .. ':' .. ARGV[2])
expire_claims(KEYS[1], ARGV[4])
table.insert(before, 1, integer(epoch))
table.insert(before, 1, CLAIMED)
return before
