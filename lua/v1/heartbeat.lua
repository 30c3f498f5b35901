-- heartbeat: refreshes one connection with a patched state, a higher epoch, or a place that has to be
-- checked.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:{room}:last_seen   KEYS[3] – prs:{room}:conn_meta
-- KEYS[4] – prs:{room}:events (channel)   KEYS[5] – prs:conn:<connId>:state
-- KEYS[6] – the room's shard of the due index
-- KEYS[7], KEYS[8] – with ARGV[16]: prs:{node:<id>}, prs:{node:<id>}:conns
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – ttl (ms)
-- ARGV[8] – epoch that the caller gave, '' for none
-- ARGV[9] – '1' with a patch, '0' without
-- ARGV[10..12] – with a patch, the state that it was merged into: exactly as it is stored ('' for a
--            missing one); its `compressed` ('' for none); '1' if it is in KEYS[5], '0' if in the hash
-- ARGV[13] – with a patch: the state after it, '' if it is unchanged
-- ARGV[14..15] – its stored form, '' if it is stored as it is; its `compressed`, '' for none
-- ARGV[16] – the node that answers for the connection from now on, '' for none
-- ARGV[17] – a number of the node for this   ARGV[18] – what the names of the channels of nodes begin with
--
-- Returns {REFRESHED, epoch, now, state_rev after it ('0' unless the state is in KEYS[5]), '1' if a
--         higher epoch was adopted, else '0', '1' if it had an owner and has none now, else '0'}
--      or {UNKNOWN}: no such connection
--      or {STALE, epoch}: the caller's epoch is older than the stored one
--      or {ELSEWHERE, roomId, userId, epoch}: the connection is in another place
--      or {CONFLICT, stored state, compressed, '1' if it is in KEYS[5] else '0', state_rev}: the
--         stored state is not the one that the patch was merged into
--      or {AHEAD, epoch}: the caller's epoch is higher than the stored one and than this epoch, the
--         highest that a heartbeat may have: one day ahead of the clock
--      or {LOST}: the node was declared dead
--      or {UNCLAIMED}: never on this layout
-- Only REFRESHED has written anything.
--
-- Races: all checks and writes are one step. Of two patches of one connection, the second finds
-- another state than the one it was merged into, gets that state back, and is merged again. Writes of
-- legacy nodes are detected too, because the whole text is compared. A state stays where its join put
-- it. However, a state that other software wrote into the hash takes precedence over one in the key.
-- state_rev grows with every write of a state in the key, so that patch_check.lua can recognise the
-- state.
-- @include publish_v1
local at = { events = KEYS[4] }
local may_adopt = true
-- @include node

-- released: the connection has no owner any more, so it can be due earlier.
local function released(room, now)
  redis.call('ZADD', KEYS[6], 'LT', now, room)
end

local function owner_is_dead()
  return not lives(KEYS[7])
end

local function add_to_owner(room)
  redis.call('HSET', KEYS[8], ARGV[1], ARGV[17] .. ':' .. room)
end
-- @include heartbeat
