-- @include publish_v1
-- @include forget_room
-- Layout v1: scripts write the indices of users, of active rooms and of due rooms directly.
-- A room's keys (`at`): conns, members, last_seen, conn_meta, events, active, due.

-- user_left: called when the user has no connection left in the room.
local function user_left(member, room)
  redis.pcall('SREM', member.user_rooms, room)
end

-- connection_left: called after a connection was removed from the room's own indices.
local function connection_left(at, room)
  if redis.call('EXISTS', at.conns) == 0 then
    forget_room(at.active, at.due, room)
  end
end
