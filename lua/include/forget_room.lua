-- CHECK: a member of every shard of the due index that has rooms: when the shard is to be checked.
-- No room has the empty id.
local CHECK_MEMBER = ''

-- forget_room: takes an empty room out of the global indices, and the shard's own entry with the
-- last room of the shard, so that nothing is left when everybody is gone.
local function forget_room(active, due, room)
  redis.call('SREM', active, room)
  redis.call('ZREM', due, room)
  if redis.call('ZCARD', due) == 1 then
    redis.call('ZREM', due, CHECK_MEMBER)
  end
end
