-- The steps of a leave, for all layouts. The including script has defined `at`, the keys of the
-- connection's place, and `remove_from_owner(conn)`: removes the connection from those of the node that
-- calls.
-- @include owner
local LEFT = 0
local UNKNOWN = 1
local ELSEWHERE = 2
local EARLY = 3
local NEWER = 4

-- A caller gave an epoch that is further ahead of the clock. Waiting would not help.
local MAX_WAIT = 5

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', at.conn, 'room_id', 'user_id', 'epoch', 'node')
if not found[1] or not found[2] then
  return { UNKNOWN }
end
if found[1] ~= room or found[2] ~= user then
  return { ELSEWHERE, found[1], found[2] }
end
local epoch = tonumber(found[3]) or 0
local fenced = ARGV[7] == 'replaced' and usable_epoch(epoch) or epoch
if ARGV[8] ~= '' and fenced >= tonumber(ARGV[8]) then
  return { NEWER, integer(epoch) }
end
local owner = owner_of(found[3], found[4])
-- A node ends connections by itself only if it owns them.
if ARGV[7] == 'timeout' and (owner ~= ARGV[9] or epoch < tonumber(ARGV[8]) - 1) then
  return { NEWER, integer(epoch) }
end
local wait = epoch - now + 1
if ARGV[7] == 'left' and wait > 0 and wait <= MAX_WAIT then
  return { EARLY, wait }
end
check_publish_acl(at)
redis.call('DEL', at.conn, at.conn_state)
leave_room(at, room, {
  conn = conn, user = user, user_json = ARGV[5], user_conns = at.user_conns, user_rooms = at.user_rooms,
}, epoch, false)
if ARGV[9] ~= '' then
  remove_from_owner(conn)
end
if owner ~= '' and owner ~= ARGV[9] then
  dispossess(owner, ARGV[10], epoch, conn)
end
publish(at, presence_event('leave', ARGV[6], ARGV[5], ARGV[4], 'null', now, epoch, ARGV[7]))
return { LEFT, integer(epoch) }
