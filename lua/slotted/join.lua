-- join: the step of a join in its room (layout slotted), with an epoch that location_claim.lua
-- assigned.
--
-- KEYS[1] – prs:{room}:conn:<connId>
-- KEYS[2] – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5] – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7] – prs:{room}:user:<userId>           KEYS[8] – prs:{room}:conn:<connId>:state
-- KEYS[9] – prs:{room}:unsettled   KEYS[10] – the channel of the slot
-- KEYS[11..] – for each place to leave first, all of this room: its user's connections in the room
--
-- ARGV[1] – connId       ARGV[2] – userId       ARGV[3] – roomId
-- ARGV[4..6] – the same three as JSON strings
-- ARGV[7] – state (JSON text)        ARGV[8] – ttl (ms)
-- ARGV[9] – the epoch that the join gets
-- ARGV[10] – the stored state, '' if it is the text   ARGV[11] – its `compressed`, '' for none
-- ARGV[12] – '1' to store it in KEYS[8], '0' in the hash
-- ARGV[13] – the node that answers for the connection, '' for none   ARGV[14] – the number of the join
--            within that node   ARGV[15] – what the names of the channels of nodes begin with
-- ARGV[16..] – for each place to leave first: userId, roomId, both as JSON strings, '' if the
--              connection lives there, else the conn_meta that an expired one left behind, its epoch
-- ARGV[#ARGV] – the publish command: PUBLISH or SPUBLISH
--
-- Returns {JOINED, epoch, '1' if the room was empty}
--      or {ELSEWHERE, roomId, userId}: the connection is here as another user, which was not given
--      or {GHOST, conn_meta}: it expired in this room and is still in the room's indices
--      or {BEHIND, epoch}: it had this epoch here, which is not lower than the given one
-- Except for JOINED, nothing was written; call again, with that place too.
--
-- Races: as on v1, within the room. A join of a connection that is already here as the same user ends
-- the earlier join without a `leave`. The outbox entry of the earlier join is changed, so that the
-- node that applies it reads the outbox again.
-- @include now
-- @include epoch
-- @include event
-- @include indices_slotted
-- @include leave_room
-- @include place_slotted
local BEHIND = 4
local places = #KEYS - 10

local function place_keys(i)
  return at, { user_conns = KEYS[11 + i] }
end

local function first_epoch(least)
  return least
end

local function refuse_epoch(epoch, least)
  if epoch > least then
    return { BEHIND, integer(epoch - 1) }
  end
end

-- index_join: `replaced`: the epoch of an earlier join of the same user that this join ends.
local function index_join(_, user, conn, epoch, replaced)
  if replaced and redis.call('HEXISTS', at.outbox, replaced .. ':' .. conn) == 1 then
    redis.call('HSET', at.outbox, replaced .. ':' .. conn, '=' .. user)
  end
  redis.call('HSET', at.outbox, integer(epoch) .. ':' .. conn, '+' .. user)
end

-- @include node_slotted
-- @include join
