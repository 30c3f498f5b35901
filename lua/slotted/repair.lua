-- repair: corrects a room's indices from the hashes of some of its connections (layout slotted). Live
-- connections are added to all indices. Dead ones are removed with their `leave` (reason "timeout").
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:{room}:unsettled   KEYS[7] – the channel of the slot
-- KEYS[8..] – for each connection: prs:{room}:conn:<connId>, prs:{room}:conn:<connId>:state,
--             prs:{room}:user:<userId>; then for each member: its
--             prs:{room}:user:<userId>
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – number of members
-- ARGV[5] – for each connection '1' if its hash says that it lives here, else '0'; concatenated
-- ARGV[6..] – for each connection: connId, connId as JSON string, userId, userId as JSON string (''
--             if the user is unknown), epoch, raw conn_meta as it was read ('' if missing); then for
--             each member: userId, and the same as JSON string
-- ARGV[#ARGV] – the publish command: PUBLISH or SPUBLISH
--
-- Returns {repairs, removed}: number of corrected entries (including removed connections); number of
--         removed connections.
--
-- Races: as in reap.lua. A connection that was read as live is only indexed if its hash is unchanged.
-- One that was read as dead is only removed if its hash is still missing and its conn_meta is still
-- what was read.
-- @include indices_slotted
-- @include room_slotted

local function member_keys(i)
  return { user_conns = KEYS[8 + 3 * #ARGV[5] + i] }
end

-- reindex: the node writes missing entries in other slots when it applies the outbox.
local function reindex(c)
  redis.call('HSETNX', at.outbox, c.epoch .. ':' .. c.conn, '+' .. c.user)
  return 0
end
-- @include repair
return { repairs, removed }
