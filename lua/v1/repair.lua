-- repair: corrects a room's indices from the hashes of some of its connections. Live connections are
-- added to all indices. Dead ones are removed with their `leave` (reason "timeout").
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each connection: prs:conn:<connId>, prs:conn:<connId>:state,
--             prs:user:<userId>:conns, prs:user:<userId>:rooms; then for each member: its
--             prs:user:<userId>:conns, prs:user:<userId>:rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – number of members
-- ARGV[5] – for each connection '1' if its hash says that it lives here, else '0'; concatenated
-- ARGV[6..] – for each connection: connId, connId as JSON string, userId, userId as JSON string (''
--             if the user is unknown), epoch, raw conn_meta as it was read ('' if missing); then for
--             each member: userId, and the same as JSON string
--
-- Returns {repairs, removed}: number of corrected entries (including removed connections); number of
--         removed connections.
--
-- Races: as in reap.lua. A connection that was read as live is only indexed if its hash is unchanged.
-- One that was read as dead is only removed if its hash is still missing and its conn_meta is still
-- what was read.
-- @include indices_v1
-- @include add_member
-- @include room_v1

local function member_keys(i)
  local key = 8 + 4 * #ARGV[5] + 2 * i
  return { user_conns = KEYS[key], user_rooms = KEYS[key + 1] }
end

local function reindex(c)
  -- Legacy nodes do not write the index of the user's rooms. A missing entry does no harm.
  add_member(c.user_rooms, ARGV[1])
  return add_member(at.active, ARGV[1])
end
-- @include repair
if redis.call('EXISTS', at.conns) == 0 then
  forget_room(at.active, at.due, room)
else
  local oldest = redis.call('ZRANGE', at.last_seen, 0, 0, 'WITHSCORES')[2]
  local is_owned = oldest and tonumber(oldest) >= OWNED
  redis.call('ZADD', at.due, 'LT', is_owned and owned_due(oldest, now) or oldest or integer(now), room)
end
return { repairs, removed }
