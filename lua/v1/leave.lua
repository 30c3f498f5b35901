-- leave: removes a connection from its room and publishes `leave`.
--
-- KEYS[1] – prs:conn:<connId>
-- KEYS[2] – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5] – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7] – prs:user:<userId>:conns           KEYS[8] – prs:conn:<connId>:state
-- KEYS[9] – prs:user:<userId>:rooms           KEYS[10] – prs:active_rooms
-- KEYS[11] – the room's shard of the due index
-- KEYS[12] – if the node that calls has an id: prs:{node:<id>}:conns
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – the reason: left, replaced or timeout. timeout: only if the node that calls owns it with this epoch
-- ARGV[8] – leave only if its epoch is lower than this; '' in any case. For a join that replaces it,
--           an epoch that joins ignore counts as lower
-- ARGV[9] – the node that calls, if it has an id; else ''
-- ARGV[10] – what the names of the channels of nodes begin with
--
-- Returns {LEFT, epoch}
--      or {UNKNOWN}: no such live connection, nothing written
--      or {ELSEWHERE, roomId, userId}: it is in another place; nothing written, call again with it
--      or {EARLY, wait}: the clock has not passed the epoch; nothing written, call again in wait ms
--      or {NEWER, epoch}: its epoch is not lower, or not the one that the node owns; nothing written
--
-- Races: a leave of a former owner finds a newer epoch, and does nothing. Of a reap and a leave, or
-- of two leaves, the first removes and publishes; the other finds no hash. After a rejoin elsewhere,
-- the given place no longer matches and nothing is done. A join may follow within the same
-- millisecond as the previous join. After a leave no key would remember the epoch, and the new join
-- would get the same one again. Therefore a leave waits until the clock has passed the epoch.
-- @include now
-- @include epoch
-- @include event
-- @include indices_v1
-- @include leave_room
-- @include place_v1

local function remove_from_owner(conn)
  redis.pcall('HDEL', KEYS[12], conn)
end
-- @include leave
