-- join: puts a connection into a room, taking it out of where it was before, and publishes both.
--
-- KEYS[1]  – prs:conn:<connId>
-- KEYS[2]  – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5]  – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7]  – prs:user:<userId>:conns          KEYS[8] – prs:user:<userId>:rooms
-- KEYS[9]  – prs:active_rooms       KEYS[10] – the room's shard of the due index
-- KEYS[11..18] – only with a place to be left first: its conns, members, last_seen, conn_meta,
--            events, user conns, user rooms, shard of the due index
--
-- ARGV[1] – connId       ARGV[2] – userId       ARGV[3] – roomId
-- ARGV[4..6] – the same three as JSON strings
-- ARGV[7] – state (JSON text)        ARGV[8] – ttl (ms)
-- ARGV[9] – the least epoch that the join may get
-- Only with KEYS[11..18]:
-- ARGV[10] – previous userId   ARGV[11] – previous roomId   ARGV[12], ARGV[13] – both as JSON strings
-- ARGV[14] – '' if the connection lives there; else the conn_meta that an expired one left behind
-- ARGV[15] – its epoch
--
-- Returns {JOINED, epoch}
--      or {ELSEWHERE, roomId, userId}: the connection is in a place whose keys were not given
--      or {GHOST, conn_meta}: it expired in this room and is still in the room's indices
-- In both cases nothing was written; call again with that place.
--
-- Races: two joins of one connId run one after the other; the second sees the first's place and
-- epoch. A heartbeat with the older epoch is refused by that epoch. A reap looks at the hash
-- again, in its own step. What expired in this very room and was not reaped yet is taken out here,
-- with its own `leave`: otherwise the new conn_meta would hide the old user and epoch from the
-- reaper. What expired in another room is left to the reaper, which sees from the hash's room that
-- the entry there is dead.
-- @include now
-- @include event
-- @include leave_room
local JOINED = 0
local ELSEWHERE = 1
local GHOST = 2

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local conn_json, user_json, room_json = ARGV[4], ARGV[5], ARGV[6]
local state, ttl = ARGV[7], ARGV[8]

local function leave_before(epoch, reason)
  leave_room({
    conns = KEYS[11], members = KEYS[12], last_seen = KEYS[13], conn_meta = KEYS[14],
    user_conns = KEYS[16], user_rooms = KEYS[17], active = KEYS[9], due = KEYS[18],
  }, ARGV[11], ARGV[10], conn, false)
  if ARGV[10] ~= '' then
    redis.call('PUBLISH', KEYS[15], presence_event(
      'leave', ARGV[13], ARGV[12], conn_json, 'null', now, epoch, reason))
  end
end

local epoch = math.max(now, tonumber(ARGV[9]))
local before = redis.call('HMGET', KEYS[1], 'room_id', 'user_id', 'epoch')
local old_room, old_user, old_epoch = before[1], before[2], before[3]
if old_room and old_user then
  epoch = math.max(epoch, (tonumber(old_epoch) or 0) + 1)
  if old_room ~= room or old_user ~= user then
    if #KEYS < 18 or ARGV[10] ~= old_user or ARGV[11] ~= old_room then
      return { ELSEWHERE, old_room, old_user }
    end
    leave_before(old_epoch, 'replaced')
  end
else
  local ghost = redis.call('HGET', KEYS[5], conn)
  if ghost then
    if #KEYS < 18 or ARGV[14] ~= ghost then
      return { GHOST, ghost }
    end
    epoch = math.max(epoch, tonumber(ARGV[15]) + 1)
    leave_before(ARGV[15], 'timeout')
  end
end

-- HSET first: a server that is out of memory refuses it, and with it the whole join, only as long
-- as the script has written nothing (a DEL, even of nothing, would count).
local fields = { 'conn_id', conn, 'user_id', user, 'room_id', room,
  'last_seen_ms', integer(now), 'epoch', integer(epoch), 'state', state }
redis.call('HSET', KEYS[1], unpack(fields))
if redis.call('HLEN', KEYS[1]) ~= #fields / 2 then
  -- Whatever else a hash of before held is gone.
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], unpack(fields))
end
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('SADD', KEYS[2], conn)
redis.call('SADD', KEYS[3], user)
redis.call('ZADD', KEYS[4], now, conn)
redis.call('HSET', KEYS[5], conn, '{"userId":' .. user_json .. ',"epoch":' .. integer(epoch) .. '}')
redis.call('SADD', KEYS[7], conn)
redis.call('SADD', KEYS[8], room)
redis.call('SADD', KEYS[9], room)
-- The room's entry is the earliest time at which anything in it can be due: only ever lowered here.
redis.call('ZADD', KEYS[10], 'LT', now + tonumber(ttl), room)
redis.call('PUBLISH', KEYS[6], presence_event(
  'join', room_json, user_json, conn_json, state, now, epoch))
return { JOINED, integer(epoch) }
