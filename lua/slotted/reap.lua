-- reap: removes those of a room's candidates that are dead, publishing `leave` (reason "timeout")
-- for each (layout slotted). Candidates that live and were last heard of in
-- the future are taken to have been heard of now.
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:{room}:unsettled   KEYS[7] – the channel of the slot
-- KEYS[8..] – for each candidate: prs:{room}:conn:<connId>, prs:{room}:conn:<connId>:state,
--             prs:{room}:user:<userId>
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4..] – for each candidate: connId, connId as JSON string, userId, userId as JSON string
--             ('' if nobody knows the user), epoch, raw conn_meta as it was read ('' if missing)
-- ARGV[#ARGV] – the command that publishes: PUBLISH or SPUBLISH
--
-- Returns {removed, lag, mended, rescored}: how many were removed; by how many ms the one that had been
-- dead for longest is late; how many hashes without a TTL were found; how many were last heard of in the
-- future.
--
-- Races: everything is looked at again here. A connection whose hash is back (and in this room)
-- lives; one whose conn_meta is no longer what was read has been joined anew and waits for the
-- next pass; one that no index of the room knows has been removed, and announced, by somebody
-- else. So there is one `leave` for each (connId, epoch), however many reapers run.
-- @include indices_slotted
local at = {
  conns = KEYS[1], members = KEYS[2], last_seen = KEYS[3], conn_meta = KEYS[4], events = KEYS[5],
  outbox = KEYS[6], slot_events = KEYS[7],
}
local keys_per_candidate = 3

local function candidate_keys(i)
  local key = 8 + 3 * i
  return { key = KEYS[key], state_key = KEYS[key + 1], user_conns = KEYS[key + 2] }
end
-- @include reap
return { removed, lag, mended, rescored }
