-- user_index_set: records in which room a connection of a user is, or that it is no longer there
-- (layout slotted).
--
-- KEYS[1] – prs:user:<userId>:at
--
-- ARGV[1] – connId   ARGV[2] – the epoch of the join   ARGV[3] – roomId, or '' when the join is over
--
-- Returns whether something was written (1 or 0).
--
-- Races: an older join never replaces a newer one, and only removes its own entry.
-- @include at
local epoch = tonumber(ARGV[2])
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value and epoch_of(value) > epoch then
  return 0
end
if ARGV[3] == '' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
local new = ARGV[2] .. ':' .. ARGV[3]
if value == new then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], new)
return 1
