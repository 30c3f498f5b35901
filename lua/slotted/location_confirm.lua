-- location_confirm: notes that a connection has joined a room (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – userId   ARGV[3] – the join's epoch
-- ARGV[4] – for how long a claim stays that nobody settles (ms)
-- ARGV[5] – '1' by the join itself, whose claim must still be there; '0' by whoever finds the connection
--           in the room
--
-- Returns {SETTLED, field, value, …}: older entries, which are gone now
--      or {SUPERSEDED}: a newer join has been settled, or has come and gone; this one's entries are gone
--
-- Races: claims that are newer stay, and are not obeyed: whoever made them leaves this room, or has
-- come to an end. A newer join takes older claims away when it is settled or over: whoever joins
-- with such a claim after that is too late. A newer join of this very room that is settled has replaced
-- this one there, or it has left before this one came: then this one is too late as well. One that has
-- only claimed the room may have left, too: whoever ends it finds this one in the room (location_remove).
-- @include at
local SETTLED = 0
local SUPERSEDED = 1

local room, epoch = ARGV[1], tonumber(ARGV[3])
local all = redis.call('HGETALL', KEYS[1])
local answer, superseded, claimed = { SETTLED }, false, ARGV[5] ~= '1'
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  claimed = claimed or (string.sub(field, 3) == room and epoch_of(value) >= epoch)
  if epoch_of(value) > epoch then
    superseded = superseded or string.sub(field, 1, 2) == 's:'
  else
    redis.call('HDEL', KEYS[1], field)
    if string.sub(field, 3) ~= room then
      answer[#answer + 1] = field
      answer[#answer + 1] = value
    end
  end
end
if superseded or not claimed then
  return { SUPERSEDED }
end
redis.call('HSET', KEYS[1], 's:' .. room, ARGV[3] .. ':' .. ARGV[2])
expire_claims(KEYS[1], ARGV[4])
return answer
