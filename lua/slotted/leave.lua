-- leave: the step of a leave in its room, which publishes `leave` (layout slotted).
--
-- KEYS[1] – prs:{room}:conn:<connId>
-- KEYS[2] – prs:{room}:conns       KEYS[3] – prs:{room}:members    KEYS[4] – prs:{room}:last_seen
-- KEYS[5] – prs:{room}:conn_meta   KEYS[6] – prs:{room}:events (channel)
-- KEYS[7] – prs:{room}:user:<userId>           KEYS[8] – prs:{room}:conn:<connId>:state
-- KEYS[9] – prs:{room}:unsettled   KEYS[10] – the channel of the slot
--
-- ARGV[1] – connId   ARGV[2] – userId   ARGV[3] – roomId   ARGV[4..6] – the same as JSON strings
-- ARGV[7] – the reason: left or replaced
-- ARGV[8] – only if its epoch is lower than this; '' in any case. For a join that replaces it, an epoch
--           that joins ignore counts as lower
-- ARGV[9] – the command that publishes: PUBLISH or SPUBLISH
--
-- Returns {LEFT, epoch}
--      or {UNKNOWN}: no such live connection, nothing written
--      or {ELSEWHERE, roomId, userId}: it is in another place; nothing written, call again with it
--      or {EARLY, wait}: the clock has not passed the epoch; nothing written, call again in wait ms
--      or {NEWER, epoch}: its epoch is not lower; nothing written
--
-- Races: a leave of a former owner finds a newer epoch, and does nothing. Of a reap and a leave, or of two
-- leaves, the first removes and publishes; the other finds no hash. With a rejoin elsewhere, the place that
-- was given no longer fits and nothing is done. With a join that follows within the millisecond of the one
-- before: nothing would remember the epoch, and the new join would get the same again; so a leave waits
-- until the clock has passed it.
-- @include now
-- @include epoch
-- @include event
-- @include indices_slotted
-- @include leave_room
local at = {
  conns = KEYS[2], members = KEYS[3], last_seen = KEYS[4], conn_meta = KEYS[5], events = KEYS[6],
  outbox = KEYS[9], slot_events = KEYS[10],
}
local user_keys = { user_conns = KEYS[7] }
-- @include leave
