-- Beside rooms, a shard of the due index has marks. The score of a mark is MARKS and a time (ms), above
-- that of every room. They go with the last room of their shard.
local MARKS = 2 ^ 52
-- The same as a bound of scores: what is below, and from where on.
local BELOW_MARKS, FROM_MARKS = '(4503599627370496', '4503599627370496'
-- When the last pass was; in the first shard that has rooms. No room has the empty id.
local PASS_MEMBER = ''
-- Before the id of a node: until when it answers for the rooms of this shard that it attends, the score of
-- which is its id as a negative number. No id of a room begins so: it would not be UTF-8.
local NODE_MARK = '\255'

-- mark_at: a time as the score of a mark.
local function mark_at(time)
  return string.format('%.0f', MARKS + time)
end

-- room_count: how many rooms a shard has; none, if it is of another type.
local function room_count(shard)
  local n = redis.pcall('ZCOUNT', shard, '-inf', BELOW_MARKS)
  return type(n) == 'number' and n or 0
end
