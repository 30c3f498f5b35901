-- room_settled: takes out of a room's `unsettled` what has been carried out (layout slotted).
--
-- KEYS[1] – prs:{room}:unsettled   KEYS[2] – prs:{room}:conns
--
-- ARGV[1..] – for each note: its field, its value as it was carried out
--
-- Returns {changed, empty}: how many notes are no longer the same; whether (1 or 0) nothing is left of
-- the room.
--
-- Races: a note that was replaced in the meantime stays, and whoever wrote it carries it out.
local changed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    changed = changed + 1
  end
end
return { changed, redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 and 1 or 0 }
