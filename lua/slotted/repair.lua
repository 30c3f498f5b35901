-- repair: makes a room's indices agree with the hashes of some of its connections: what lives is put
-- into every index, what is dead is taken out with its `leave` (reason "timeout"); layout slotted.
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:{room}:unsettled   KEYS[7] – the channel of the slot
-- KEYS[8..] – for each connection: prs:{room}:conn:<connId>, prs:{room}:conn:<connId>:state,
--             prs:{room}:user:<userId>; then for each member: its
--             prs:{room}:user:<userId>
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – how many members
-- ARGV[5] – for each connection '1' if its hash says that it lives here, else '0'; one text
-- ARGV[6..] – for each connection: connId, connId as JSON string, userId, userId as JSON string (''
--             if nobody knows the user), epoch, raw conn_meta as it was read ('' if missing); then
--             for each member: userId, and as JSON string
-- ARGV[#ARGV] – the command that publishes: PUBLISH or SPUBLISH
--
-- Returns {repairs, removed}: how many entries were put right (removed connections among them); how
-- many connections were removed.
--
-- Races: as in reap.lua. What was read as living is only indexed while its hash still says the
-- same; what was read as dead is only removed while its hash is still not there and its conn_meta
-- is still what was read.
-- @include indices_slotted
-- @include room_slotted

local function member_keys(i)
  return { user_conns = KEYS[8 + 3 * #ARGV[5] + i] }
end

-- reindex: the node writes what is missing in other slots when it applies the outbox.
local function reindex(c)
  redis.call('HSETNX', at.outbox, c.epoch .. ':' .. c.conn, '+' .. c.user)
  return 0
end
-- @include repair
return { repairs, removed }
