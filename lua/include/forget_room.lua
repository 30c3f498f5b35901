-- @include marks
-- forget_room: removes an empty room from the global indices, and the mark together with the last
-- room of the shard, so that no keys remain without connections. These keys belong to all rooms. One
-- of another type must not abort a script that has already written.
local function forget_room(active, due, room)
  redis.pcall('SREM', active, room)
  redis.pcall('ZREM', due, room)
  if room_count(due) == 0 then
    redis.call('DEL', due)
  end
end
