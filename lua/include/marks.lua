-- Beside rooms, a shard of the due index has a mark: when the last pass was, in the first shard that has
-- rooms. No room has the empty id. The score of the mark is MARKS and a time (ms), above that of every
-- room. It goes with the last room of its shard.
local MARKS = 2 ^ 52
local PASS_MEMBER = ''
-- The same as a bound of scores: what is below.
local BELOW_MARKS = '(4503599627370496'

-- mark_at: a time as the score of a mark.
local function mark_at(time)
  return string.format('%.0f', MARKS + time)
end

-- room_count: how many rooms a shard has; none, if it is of another type.
local function room_count(shard)
  local n = redis.pcall('ZCOUNT', shard, '-inf', BELOW_MARKS)
  return type(n) == 'number' and n or 0
end
