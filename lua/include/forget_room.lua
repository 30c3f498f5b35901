-- @include marks
-- forget_room: takes an empty room out of the global indices, and the mark with the last room of the
-- shard, so that nothing is left when everybody is gone. These keys belong to all rooms: one of another
-- type must not end a script that has already written.
local function forget_room(active, due, room)
  redis.pcall('SREM', active, room)
  redis.pcall('ZREM', due, room)
  if room_count(due) == 0 then
    redis.call('DEL', due)
  end
end
