-- PASS_MEMBER: a member of the first shard of the due index that has rooms: when the last pass was. No
-- room has the empty id.
local PASS_MEMBER = ''

-- forget_room: takes an empty room out of the global indices, and what the shard says of passes with
-- the last room of the shard, so that nothing is left when everybody is gone.
local function forget_room(active, due, room)
  redis.call('SREM', active, room)
  redis.call('ZREM', due, room)
  if redis.call('ZCARD', due) == 1 then
    redis.call('ZREM', due, PASS_MEMBER)
  end
end
