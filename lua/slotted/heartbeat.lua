-- heartbeat: refreshes one connection with a patched state, a higher epoch, or a place that has to be
-- checked (layout slotted).
--
-- KEYS[1] – prs:{room}:conn:<connId>   KEYS[2] – prs:{room}:last_seen   KEYS[3] – prs:{room}:conn_meta
-- KEYS[4] – prs:{room}:events (channel)   KEYS[5] – prs:{room}:conn:<connId>:state
-- KEYS[6] – the channel of the slot
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
-- ARGV[17] – not empty if the node has claimed the connection   ARGV[18] – what the names of the channels of nodes begin with
-- ARGV[19] – the publish command: PUBLISH or SPUBLISH
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
--      or {UNISSUED, epoch}: the caller's epoch is higher than this stored one, and no join has it
--         here
--      or {LOST}: never on this layout
--      or {UNCLAIMED}: the node has to claim the connection first (node_claim.lua)
-- Only REFRESHED has written anything.
--
-- Races: all checks and writes are one step. Of two patches of one connection, the second finds
-- another state than the one it was merged into, gets that state back, and is merged again. Writes of
-- legacy nodes are detected too, because the whole text is compared. A state stays where its join put
-- it. However, a state that other software wrote into the hash takes precedence over one in the key.
-- state_rev grows with every write of a state in the key, so that patch_check.lua can recognise the
-- state.
-- A join that comes too late is undone by its epoch. Therefore the epoch stays unchanged until the
-- join is confirmed; another join may already have had the higher epoch.
-- @include publish_slotted
local at = { events = KEYS[4], slot_events = KEYS[6] }
local may_adopt = false

-- The due index is in another slot; the node writes it afterwards.
local function released()
end

-- @include node_slotted
-- @include heartbeat
