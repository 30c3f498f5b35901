-- leave: takes a connection out of its room and publishes `leave`.
--
-- KEYS[1] – prs:conn:<connId>
-- KEYS[2] – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5] – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7] – prs:user:<userId>:conns          KEYS[8] – prs:user:<userId>:rooms
-- KEYS[9] – prs:active_rooms       KEYS[10] – the room's shard of the due index
-- KEYS[11] – prs:conn:<connId>:state
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – the reason: left or replaced
-- ARGV[8] – only if its epoch is lower than this; '' in any case. For a join that replaces it, an epoch
--           that joins ignore counts as lower
-- ARGV[9] – the layout: see include/layout.lua
--
-- Returns {LEFT, epoch}
--      or {UNKNOWN}: no such live connection, nothing written
--      or {ELSEWHERE, roomId, userId}: it is in another place; nothing written, call again with it
--      or {EARLY, wait}: the clock has not passed the epoch; nothing written, call again in wait ms
--      or {NEWER, epoch}: its epoch is not lower; nothing written
--
-- Races: a leave of a former owner finds a newer epoch, and does nothing. With a reap or a second leave, whoever comes first removes and publishes; the other finds
-- no hash. With a rejoin elsewhere, the place that was given no longer fits and nothing is done.
-- With a join that follows within the millisecond of the one before: nothing would remember the
-- epoch, and the new join would get the same again; so a leave waits until the clock has passed it.
-- @include now
-- @include epoch
-- @include event
-- @include leave_room
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
check_publish_acl(KEYS[6], KEYS[10])
redis.call('DEL', KEYS[1], KEYS[11])
leave_room({
  conns = KEYS[2], members = KEYS[3], last_seen = KEYS[4], conn_meta = KEYS[5],
  user_conns = KEYS[7], user_rooms = KEYS[8], active = KEYS[9], due = KEYS[10],
}, room, user, ARGV[5], conn, epoch, false)
publish(KEYS[6], KEYS[10], presence_event(
  'leave', ARGV[6], ARGV[5], ARGV[4], 'null', now, epoch, ARGV[7]))
return { LEFT, integer(epoch) }
