-- @include marks
-- forget_room: takes an empty room out of the global indices, and the marks with the last room of the
-- shard, so that nothing is left when everybody is gone.
local function forget_room(active, due, room)
  redis.call('SREM', active, room)
  redis.call('ZREM', due, room)
  if room_count(due) == 0 then
    redis.call('DEL', due)
  end
end
