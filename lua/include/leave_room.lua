-- @include layout
-- @include forget_room
-- Users with more connections than this are taken to be in a room with any of them.
local MAX_LOOKED_AT = 256
-- Of a user's connections, how many are looked at before all that are in the room are asked for.
local MAX_SAMPLED = 8

-- user_is_in: whether a connection of the user is in the room, as that user's. Costs at most the
-- smaller of the two sets, and usually stops at the first hit; the size of the room is no factor.
-- A connection id can be in the room as somebody else's, who expired there under that id: so what is
-- found counts only if its conn_meta does not name another user.
-- SINTERCARD came with Redis 7; SINTER answers the same on Redis 6.
local function user_is_in(room_conns, conn_meta, user_conns, user_json)
  local count = redis.pcall('SINTERCARD', 2, user_conns, room_conns, 'LIMIT', 1)
  if count == 0 then
    return false
  end
  local size = redis.pcall('SCARD', user_conns)
  if type(size) ~= 'number' then
    -- Of another type: repair adds the user again if another connection is there.
    return false
  end
  if size > MAX_SAMPLED then
    -- Where many are in the room, a few tell; what would cost is to get all of them for each leave.
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

-- leave_room: takes one connection out of every index of a room, the user out of `members` when
-- it was the last of theirs there, and the room out of the global indices when it is empty.
-- `at` names the keys: conns, members, last_seen, conn_meta, user_conns, user_rooms, active, due.
-- `keep_user_conn`: the connection lives on in another room of the same user. `epoch`: of the join
-- that is over, for the note that the layouts of one slot make instead of writing to other slots.
-- Returns how many of the room's own indices knew the connection (0: somebody else removed it).
local function leave_room(at, room, user, user_json, conn, epoch, keep_user_conn)
  local known = redis.call('SREM', at.conns, conn)
    + redis.call('ZREM', at.last_seen, conn)
    + redis.call('HDEL', at.conn_meta, conn)
  if not keep_user_conn then
    -- The room has been written already: a user's key of another type must not end the script here.
    redis.pcall('SREM', at.user_conns, conn)
  end
  if not user_is_in(at.conns, at.conn_meta, at.user_conns, user_json) then
    redis.call('SREM', at.members, user)
    if layout == 'v1' then
      redis.pcall('SREM', at.user_rooms, room)
    end
  end
  if layout ~= 'v1' then
    if known > 0 then
      redis.call('HSET', at.active, integer(epoch) .. ':' .. conn, '-' .. user)
    end
  elseif redis.call('EXISTS', at.conns) == 0 then
    forget_room(at.active, at.due, room)
  end
  return known
end
