-- user_is_in(room_conns, user_conns): whether any connection of the user is in the room. Costs at
-- most the smaller of the two sets, and stops at the first hit; the size of the room is no factor.
-- SINTERCARD came with Redis 7; SINTER answers the same on Redis 6.
local function user_is_in(room_conns, user_conns)
  local count = redis.pcall('SINTERCARD', 2, user_conns, room_conns, 'LIMIT', 1)
  if type(count) == 'table' then
    count = #redis.call('SINTER', user_conns, room_conns)
  end
  return count > 0
end

-- leave_room: takes one connection out of every index of a room, the user out of `members` when
-- it was the last of theirs there, and the room out of the global indices when it is empty.
-- `at` names the keys: conns, members, last_seen, conn_meta, user_conns, user_rooms, active, due.
-- `keep_user_conn`: the connection lives on in another room of the same user.
-- Returns how many of the room's own indices knew the connection (0: somebody else removed it).
local function leave_room(at, room, user, conn, keep_user_conn)
  local known = redis.call('SREM', at.conns, conn)
    + redis.call('ZREM', at.last_seen, conn)
    + redis.call('HDEL', at.conn_meta, conn)
  if not keep_user_conn then
    redis.call('SREM', at.user_conns, conn)
  end
  if not user_is_in(at.conns, at.user_conns) then
    redis.call('SREM', at.members, user)
    redis.call('SREM', at.user_rooms, room)
  end
  if redis.call('EXISTS', at.conns) == 0 then
    redis.call('SREM', at.active, room)
    redis.call('ZREM', at.due, room)
  end
  return known
end
