-- reap: removes the dead candidates of a room, publishes `leave` (reason "timeout") for each, and
-- moves the room's entry in the due index. Live candidates whose last heartbeat is in the future are
-- treated as seen now.
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each candidate: prs:conn:<connId>, prs:conn:<connId>:state,
--             prs:user:<userId>:conns, prs:user:<userId>:rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4] – a node that was declared dead: only its connections are removed; '' for none
-- ARGV[5..] – for each candidate: connId, connId as JSON string, userId, userId as JSON string
--             ('' if the user is unknown), epoch, raw conn_meta as it was read ('' if missing)
--
-- Returns {removed, lag, mended, rescored}: number of removed connections; the longest delay of a
--         removal in ms; number of hashes without a TTL that were found; number of connections whose
--         last heartbeat is in the future.
--
-- Races: every candidate is read again here. A connection whose hash exists again (and in this room)
-- is alive. If its conn_meta differs from what was read, it was joined again, and waits for the next
-- pass. If no index of the room has it, another client has removed it and published its `leave`.
-- There is therefore one `leave` for each (connId, epoch), however many reapers run.
-- @include indices_v1
-- @include room_v1
-- @include reap
if redis.call('EXISTS', at.conns) == 1 then
  local until_limit = integer(limit)
  if redis.call('ZCOUNT', at.last_seen, '-inf', until_limit) > old
    or redis.call('ZCOUNT', at.last_seen, '(' .. integer(now), owned_score(now)) > 0 then
    -- There are more candidates than this call was given, so the room is due again at once.
    oldest = limit
  end
  local first = redis.call('ZRANGEBYSCORE', at.last_seen, '(' .. until_limit, '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    local score = tonumber(first[2])
    oldest = math.min(oldest, score < OWNED and score or tonumber(owned_due(score, now)))
  end
  if oldest < math.huge then
    redis.call('ZADD', at.due, integer(oldest), room)
  end
end
return { removed, lag, mended, rescored }
