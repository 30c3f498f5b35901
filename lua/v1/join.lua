-- join: adds a connection to a room, removes it from its previous place, and publishes both.
--
-- KEYS[1]  – prs:conn:<connId>
-- KEYS[2]  – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5]  – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7]  – prs:user:<userId>:conns           KEYS[8] – prs:conn:<connId>:state
-- KEYS[9]  – prs:user:<userId>:rooms           KEYS[10] – prs:active_rooms
-- KEYS[11] – the room's shard of the due index
-- KEYS[12..] – for each place to leave first: its conns, members, last_seen, conn_meta, events,
--            user conns, user rooms, shard of the due index
-- KEYS[#KEYS-1..] – with an owner: prs:{node:<id>}, prs:{node:<id>}:conns
--
-- ARGV[1] – connId       ARGV[2] – userId       ARGV[3] – roomId
-- ARGV[4..6] – the same three as JSON strings
-- ARGV[7] – state (JSON text)        ARGV[8] – ttl (ms)
-- ARGV[9] – the lowest epoch that the join may get
-- ARGV[10] – the stored state, '' if it is the text   ARGV[11] – its `compressed`, '' for none
-- ARGV[12] – '1' to store it in KEYS[8], '0' in the hash
-- ARGV[13] – the node that answers for the connection, '' for none   ARGV[14] – the number of the join
--            within that node   ARGV[15] – what the names of the channels of nodes begin with
-- ARGV[16..] – for each place to leave first: userId, roomId, both as JSON strings, '' if the
--            connection lives there, else the conn_meta that an expired one left behind, its epoch
--
-- Returns {JOINED, epoch, '1' if the room was empty}
--      or {ELSEWHERE, roomId, userId}: the connection lives in a place that was not given
--      or {GHOST, conn_meta}: it expired in this room and is still in the room's indices
--      or {EARLY, wait}: the clock has not reached the epoch that the join would get
--      or {LOST}: the node was declared dead
-- Except for JOINED, nothing was written; call again, with that place too, or in wait ms.
--
-- Races: two joins of one connId run one after the other; the second sees the place and epoch of the
-- first. A heartbeat with the older epoch is refused. A reap reads the hash again, in its own step. A
-- connection that expired in this same room and was not reaped yet is removed here, with its own
-- `leave`. Otherwise the new conn_meta would hide the old user and epoch from the reaper. A
-- connection that expired in another room is left to the reaper: the room in the hash shows that the
-- entry there is dead. Joins of one id in the same millisecond wait for the next one. If an epoch ran
-- ahead of the clock, it could be assigned again after the connection is forgotten.
-- @include now
-- @include epoch
-- @include event
-- @include indices_v1
-- @include leave_room
-- @include place_v1
-- @include owner
local EARLY = 3

-- A caller gave an epoch that is further ahead of the clock. Waiting would not help.
local MAX_WAIT = 5
-- With an owner, there are two more keys.
local places = math.floor((#KEYS - 11) / 8)


local function place_keys(i)
  local key = 12 + 8 * i
  return {
    conns = KEYS[key], members = KEYS[key + 1], last_seen = KEYS[key + 2],
    conn_meta = KEYS[key + 3], events = KEYS[key + 4], active = at.active, due = KEYS[key + 7],
  }, { user_conns = KEYS[key + 5], user_rooms = KEYS[key + 6] }
end

local function first_epoch(least)
  return math.max(now, least)
end

local function refuse_epoch(epoch)
  if epoch > now and epoch - now <= MAX_WAIT then
    return { EARLY, epoch - now }
  end
end

local function index_join(room, _, _, _, _, score)
  redis.call('SADD', at.user_rooms, room)
  redis.call('SADD', at.active, room)
  -- The room's entry: no connection in it was last seen before this time. It is only lowered here.
  redis.call('ZADD', at.due, 'LT', ARGV[13] == '' and score or owned_due(score, now), room)
end

-- @include node_v1
-- @include join
