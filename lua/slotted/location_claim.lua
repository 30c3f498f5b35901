-- location_claim: assigns an epoch to a join and records the room that the connection is about to
-- join (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – userId   ARGV[3] – the lowest epoch that the join may get
-- ARGV[4] – how long an unconfirmed claim stays (ms)
--
-- Returns {CLAIMED, epoch, field, value, …}: the fields that were there before
--      or {EARLY, wait}: the clock has not reached the epoch; nothing written, call again in wait ms
--
-- Races: all joins of one connection, to any rooms, get their epochs here, one after the other. A
-- later join sees the claim of an earlier one. A claim is a hint: the room decides which connections
-- are in it.
-- @include now
-- @include event
-- @include at
local CLAIMED = 0
local EARLY = 1

-- A caller gave an epoch that is further ahead of the clock. Waiting would not help.
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
