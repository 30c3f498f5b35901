-- Besides rooms, a shard of the due index can have a mark. The mark in the first shard that has rooms
-- is the time of the last pass. No room has the empty id. The score of a mark is MARKS plus a time
-- (ms), which is higher than the scores of all rooms. The mark is removed together with the last room
-- of its shard.
local MARKS = 2 ^ 52
local PASS_MEMBER = ''
-- The upper bound for scores of rooms.
local BELOW_MARKS = '(4503599627370496'

-- mark_at: a time as the score of a mark.
local function mark_at(time)
  return string.format('%.0f', MARKS + time)
end

-- room_count: the number of rooms in a shard; 0 if its key has another type.
local function room_count(shard)
  local n = redis.pcall('ZCOUNT', shard, '-inf', BELOW_MARKS)
  return type(n) == 'number' and n or 0
end
