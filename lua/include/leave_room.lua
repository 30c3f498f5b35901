-- A user with more connections than this counts as being in a room without an exact check.
local MAX_LOOKED_AT = 256
-- Number of a user's connections that are sampled before all of them are intersected with the room.
local MAX_SAMPLED = 8

-- user_is_in: whether a connection of the user is in the room as that user. The cost is at most
-- proportional to the smaller of the two sets, and usually that of the first hit. It does not depend
-- on the size of the room.
-- A connection id can be in the room for another user, if that user's connection with the same id
-- expired there. A connection therefore only counts if its conn_meta does not name another user.
-- SINTERCARD requires Redis 7. On Redis 6, SINTER gives the same answer.
local function user_is_in(room_conns, conn_meta, user_conns, user_json)
  local count = redis.pcall('SINTERCARD', 2, user_conns, room_conns, 'LIMIT', 1)
  if count == 0 then
    return false
  end
  local size = redis.pcall('SCARD', user_conns)
  if type(size) ~= 'number' then
    -- The key has another type. Repair adds the user again if another connection is in the room.
    return false
  end
  if size > MAX_SAMPLED then
    -- If many are in the room, a small sample is enough. Reading all of them for each leave would be
    -- costly.
    local some = redis.call('SRANDMEMBER', user_conns, MAX_SAMPLED)
    for i = 1, #some do
      local meta = redis.call('HGET', conn_meta, some[i])
      if meta and string.find(meta, '"userId":' .. user_json, 1, true)
        and redis.call('SISMEMBER', room_conns, some[i]) == 1 then
        return true
      end
    end
  end
  if size > MAX_LOOKED_AT and type(count) == 'number' then
    return true
  end
  local conns = redis.call('SINTER', user_conns, room_conns)
  for i = 1, #conns do
    local meta = redis.call('HGET', conn_meta, conns[i])
    if not meta or string.find(meta, '"userId":' .. user_json, 1, true)
      or not string.find(meta, '"userId":', 1, true) then
      return true
    end
  end
  return false
end

-- leave_room: removes one connection from every index of a room, the user from `members` if it was
-- the user's last one there, and the room from the indices of rooms if it is empty.
-- `at`: the room's keys. `member`: the connection: conn, user, user_json, and its keys user_conns and
-- user_rooms. `epoch`: that of the join that is over. `keep_user_conn`: the connection lives on in
-- another room of the same user. Returns how many of the room's own indices had it (0: another client
-- removed it).
-- Include indices_v1 or indices_slotted before this.
local function leave_room(at, room, member, epoch, keep_user_conn)
  local known = redis.call('SREM', at.conns, member.conn)
    + redis.call('ZREM', at.last_seen, member.conn)
    + redis.call('HDEL', at.conn_meta, member.conn)
  if not keep_user_conn then
    -- The room was already written, so a user's key of another type must not abort the script here.
    redis.pcall('SREM', member.user_conns, member.conn)
  end
  if not user_is_in(at.conns, at.conn_meta, member.user_conns, member.user_json) then
    redis.call('SREM', at.members, member.user)
    user_left(member, room)
  end
  connection_left(at, room, member, epoch, known)
  return known
end
