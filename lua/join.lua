-- join: puts a connection into a room, taking it out of where it was before, and publishes both.
--
-- KEYS[1]  – prs:conn:<connId>
-- KEYS[2]  – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5]  – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7]  – prs:user:<userId>:conns          KEYS[8] – prs:user:<userId>:rooms
-- KEYS[9]  – prs:active_rooms       KEYS[10] – the room's shard of the due index
-- KEYS[11] – prs:conn:<connId>:state
-- KEYS[12..] – for each place to be left first: its conns, members, last_seen, conn_meta, events,
--            user conns, user rooms, shard of the due index
--
-- ARGV[1] – connId       ARGV[2] – userId       ARGV[3] – roomId
-- ARGV[4..6] – the same three as JSON strings
-- ARGV[7] – state (JSON text)        ARGV[8] – ttl (ms)
-- ARGV[9] – the least epoch that the join may get
-- ARGV[10] – the state as it is to be stored, '' if as it is   ARGV[11] – its `compressed`, '' for none
-- ARGV[12] – '1' to store it in KEYS[11], '0' in the hash
-- ARGV[13..] – for each place to be left first: userId, roomId, both as JSON strings, '' if the
--            connection lives there, else the conn_meta that an expired one left behind, its epoch
-- ARGV[#ARGV] – the layout: see include/layout.lua. On all but v1, ARGV[9] is the very epoch that the
--            join gets, and places are of this room
--
-- Returns {JOINED, epoch, '1' if the room was empty}
--      or {ELSEWHERE, roomId, userId}: the connection lives in a place that was not given
--      or {GHOST, conn_meta}: it expired in this room and is still in the room's indices
--      or {EARLY, wait}: the clock has not come to the epoch that the join would get
--      or {BEHIND, epoch}: not on v1: it had this epoch here, which is not lower than the given one
-- But for JOINED nothing was written; call again, with that place too, or in wait ms.
--
-- Races: two joins of one connId run one after the other; the second sees the first's place and
-- epoch. A heartbeat with the older epoch is refused by that epoch. A reap looks at the hash
-- again, in its own step. What expired in this very room and was not reaped yet is taken out here,
-- with its own `leave`: otherwise the new conn_meta would hide the old user and epoch from the
-- reaper. What expired in another room is left to the reaper, which sees from the hash's room that
-- the entry there is dead. Joins of one id in the same millisecond wait for the next one: an epoch
-- that ran ahead of the clock could be given again once the connection is forgotten. On all but v1, a join
-- of the same user whose connection is here already ends that earlier join without a `leave`: its note in
-- `unsettled` is changed, so that the node that carries it out looks again.
-- @include now
-- @include epoch
-- @include event
-- @include leave_room
local JOINED = 0
local ELSEWHERE = 1
local GHOST = 2
local EARLY = 3
local BEHIND = 4

-- An epoch that is further ahead of the clock was given by a caller; waiting is no help.
local MAX_WAIT = 5

local conn, user, room = ARGV[1], ARGV[2], ARGV[3]
local conn_json, user_json, room_json = ARGV[4], ARGV[5], ARGV[6]
local state, ttl = ARGV[7], ARGV[8]
local stored = ARGV[10] == '' and state or ARGV[10]
local places = (#KEYS - 11) / 8

-- The number of the given place that fits, or nil. A ghost's user is what its conn_meta says.
local function given(old_room, old_user, meta)
  for i = 0, places - 1 do
    local at = 13 + 6 * i
    if ARGV[at + 1] == old_room and ARGV[at + 4] == meta
      and (old_user == nil or ARGV[at] == old_user) then
      return i
    end
  end
end

local function leave_place(i, epoch, reason)
  local key, at = 12 + 8 * i, 13 + 6 * i
  leave_room({
    conns = KEYS[key], members = KEYS[key + 1], last_seen = KEYS[key + 2],
    conn_meta = KEYS[key + 3], user_conns = KEYS[key + 5], user_rooms = KEYS[key + 6],
    active = KEYS[9], due = KEYS[key + 7],
  }, ARGV[at + 1], ARGV[at], ARGV[at + 2], conn, epoch, false)
  if ARGV[at] ~= '' then
    publish(KEYS[key + 4], KEYS[key + 7], presence_event(
      'leave', ARGV[at + 3], ARGV[at + 2], conn_json, 'null', now, epoch, reason))
  end
end

local least = tonumber(ARGV[9])
local epoch = layout == 'v1' and math.max(now, least) or least
local before = redis.call('HMGET', KEYS[1], 'room_id', 'user_id', 'epoch')
local old_room, old_user, old_epoch = before[1], before[2], before[3]
local lives = old_room and old_user
local previous, ghost

if lives and (old_room ~= room or old_user ~= user) then
  previous = given(old_room, old_user, '')
  if not previous then
    return { ELSEWHERE, old_room, old_user }
  end
end
if not lives or old_room ~= room then
  local meta = redis.call('HGET', KEYS[5], conn)
  if meta and meta ~= '' then
    ghost = given(room, nil, meta)
    if not ghost then
      return { GHOST, meta }
    end
  end
end

if lives then
  epoch = math.max(epoch, usable_epoch(old_epoch) + 1)
end
local ghost_epoch = ghost and ARGV[18 + 6 * ghost]
if ghost then
  epoch = math.max(epoch, usable_epoch(ghost_epoch) + 1)
end
if layout ~= 'v1' then
  if epoch > least then
    return { BEHIND, integer(epoch - 1) }
  end
elseif epoch > now and epoch - now <= MAX_WAIT then
  return { EARLY, epoch - now }
end
check_publish_acl(KEYS[6], KEYS[10])
if ghost then
  leave_place(ghost, ghost_epoch, 'timeout')
end
if previous then
  leave_place(previous, old_epoch, 'replaced')
end

-- SET or HSET first: a server that is out of memory refuses it, and with it the whole join, only as
-- long as the script has written nothing (a DEL, even of nothing, would count).
-- What each heartbeat looks for comes first: a small hash is searched from its beginning.
local fields = { 'epoch', integer(epoch), 'last_seen_ms', integer(now),
  'conn_id', conn, 'user_id', user, 'room_id', room }
if ARGV[12] == '1' then
  redis.call('SET', KEYS[11], stored, 'PX', ttl)
  -- A hash with a state_rev and no state: the state is in the key.
  fields[11], fields[12] = 'state_rev', '1'
else
  fields[11], fields[12] = 'state', stored
end
if ARGV[11] ~= '' then
  fields[13], fields[14] = 'compressed', ARGV[11]
end
redis.call('HSET', KEYS[1], unpack(fields))
if redis.call('HLEN', KEYS[1]) ~= #fields / 2 then
  -- Whatever else a hash of before held is gone.
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], unpack(fields))
end
redis.call('PEXPIRE', KEYS[1], ttl)
if ARGV[12] ~= '1' then
  redis.call('DEL', KEYS[11])
end
local was_empty = redis.call('EXISTS', KEYS[2]) == 0 and '1' or '0'
redis.call('SADD', KEYS[2], conn)
redis.call('SADD', KEYS[3], user)
redis.call('ZADD', KEYS[4], now, conn)
redis.call('HSET', KEYS[5], conn, '{"userId":' .. user_json .. ',"epoch":' .. integer(epoch) .. '}')
redis.call('SADD', KEYS[7], conn)
if layout == 'v1' then
  redis.call('SADD', KEYS[8], room)
  redis.call('SADD', KEYS[9], room)
  -- The room's entry: nobody in it was last heard of before that. Only ever lowered here.
  redis.call('ZADD', KEYS[10], 'LT', now, room)
else
  if lives and not previous and redis.call('HEXISTS', KEYS[9], old_epoch .. ':' .. conn) == 1 then
    redis.call('HSET', KEYS[9], old_epoch .. ':' .. conn, '=' .. user)
  end
  redis.call('HSET', KEYS[9], integer(epoch) .. ':' .. conn, '+' .. user)
end
publish(KEYS[6], KEYS[10], presence_event(
  'join', room_json, user_json, conn_json, state, now, epoch))
return { JOINED, integer(epoch), was_empty }
