-- @include event
-- @include leave_room

-- time_left: how long a connection's hash still lives, in ms; nil if it is dead. The second value
-- says that it had no TTL, and so would never have died (half-written, or made by hand): then it has
-- as long as it was last heard of, by its own word.
local function time_left(conn_key, last_seen, ttl)
  local left = redis.call('PTTL', conn_key)
  if left ~= -1 then
    return left, false
  end
  left = math.min((tonumber(last_seen) or 0) + ttl - now, ttl)
  if left > 0 then
    redis.call('PEXPIRE', conn_key, integer(left))
    return left, true
  end
  redis.call('DEL', conn_key)
  return nil, true
end

-- remove_dead: takes a dead connection out of the room's indices and publishes its `leave` (reason
-- "timeout"; not if nobody knows the user). Says whether the room knew it: if not, somebody else has
-- removed and announced it. `hash_room`, `hash_user`: what its hash says now, if it lives elsewhere.
local function remove_dead(at, room, room_json, user, user_json, conn, conn_json, epoch, hash_room,
    hash_user)
  local lives_elsewhere = hash_room and hash_room ~= room and hash_user == user
  if leave_room(at, room, user, user_json, conn, lives_elsewhere) == 0 then
    return false
  end
  if user_json ~= '' then
    redis.call('PUBLISH', at.events, presence_event(
      'leave', room_json, user_json, conn_json, 'null', now, epoch, 'timeout'))
  end
  return true
end
