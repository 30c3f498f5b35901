-- sweep_rooms: which of some due rooms have something that may be dead; for the others, when to look
-- again.
--
-- KEYS[1] – the shard of the due index that the rooms belong to
-- KEYS[2..] – for each room: prs:{room}:last_seen
--
-- ARGV[1] – ttl (ms)   ARGV[2..] – roomIds
--
-- Returns indices (0-based) of rooms with candidates, as they are; and as -1 - index, rooms of which
-- last_seen is empty or no zset: nobody is there, or their indices do not agree.
--
-- Races: a join that comes after this step lowers the entry again (ZADD LT).
-- @include now
-- @include goes_on
goes_on(KEYS[1])
local ttl = tonumber(ARGV[1])
local open = {}
local later = { KEYS[1] }
for i = 1, #ARGV - 1 do
  -- One room whose key is of another type must not keep the others from being looked at.
  local first = redis.pcall('ZRANGE', KEYS[1 + i], 0, 0, 'WITHSCORES')[2]
  if not first then
    open[#open + 1] = -i
  elseif first + ttl > now then
    later[#later + 1] = first + ttl
    later[#later + 1] = ARGV[1 + i]
  else
    open[#open + 1] = i - 1
  end
end
if #later > 1 then
  redis.call('ZADD', unpack(later))
end
return open
