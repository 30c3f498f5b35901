-- room_settled: removes applied entries from a room's outbox, `unsettled` (layout slotted).
--
-- KEYS[1] – prs:{room}:unsettled   KEYS[2] – prs:{room}:conns
--
-- ARGV[1..] – for each entry: its field, its value when it was applied
--
-- Returns {changed, empty}: the number of entries that have changed; whether (1 or 0) nothing is left
--         of the room.
--
-- Races: an entry that was replaced in the meantime stays. The client that replaced it applies it.
local changed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    changed = changed + 1
  end
end
return { changed, redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 and 1 or 0 }
