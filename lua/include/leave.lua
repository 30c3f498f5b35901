-- The steps of a leave, on every layout. The script that includes this has defined `at`, the keys of the room,
-- and `user_keys`, those of the user.
local LEFT = 0
local UNKNOWN = 1
local ELSEWHERE = 2
local EARLY = 3
local NEWER = 4

-- An epoch that is further ahead of the clock was given by a caller; waiting is no help.
local MAX_WAIT = 5

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', KEYS[1], 'room_id', 'user_id', 'epoch')
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
local wait = epoch - now + 1
if ARGV[7] == 'left' and wait > 0 and wait <= MAX_WAIT then
  return { EARLY, wait }
end
check_publish_acl(at)
redis.call('DEL', KEYS[1], KEYS[8])
user_keys.conn, user_keys.user, user_keys.user_json = conn, user, ARGV[5]
leave_room(at, room, user_keys, epoch, false)
publish(at, presence_event('leave', ARGV[6], ARGV[5], ARGV[4], 'null', now, epoch, ARGV[7]))
return { LEFT, integer(epoch) }
