-- location_confirm: records that a connection has joined a room (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – userId   ARGV[3] – the join's epoch
-- ARGV[4] – how long an unconfirmed claim stays (ms)
-- ARGV[5] – '1' if the join itself calls, whose claim must still exist; '0' if another node has found
--           the connection in the room
--
-- Returns {SETTLED, field, value, …}: older entries, which were removed
--      or {SUPERSEDED}: a newer join was confirmed, or has come and gone; this one's entries are
--         removed
--
-- Races: newer claims stay, but they do not supersede this join: a newer join that only has a claim
-- removes the connection from this room, or has ended. When a newer join is confirmed or over, it
-- removes older claims. A join whose claim was removed is therefore too late. If a newer join of this
-- same room is confirmed, it has replaced this one there, or it left before this one came; then this
-- one is too late as well. A newer join that only claimed the room may have left too. The node that
-- ends it finds this one in the room (location_remove).
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
