-- reap: removes those of a room's candidates that are dead, publishing `leave` (reason "timeout")
-- for each, and moves the room's entry in the due index. Candidates that live and were last heard of in
-- the future are taken to have been heard of now.
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each candidate: prs:conn:<connId>, prs:conn:<connId>:state,
--             prs:user:<userId>:conns, prs:user:<userId>:rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4..] – for each candidate: connId, connId as JSON string, userId, userId as JSON string
--             ('' if nobody knows the user), epoch, raw conn_meta as it was read ('' if missing)
--
-- Returns {removed, lag, mended, rescored}: how many were removed; by how many ms the one that had been
-- dead for longest is late; how many hashes without a TTL were found; how many were last heard of in the
-- future.
--
-- Races: everything is looked at again here. A connection whose hash is back (and in this room)
-- lives; one whose conn_meta is no longer what was read has been joined anew and waits for the
-- next pass; one that no index of the room knows has been removed, and announced, by somebody
-- else. So there is one `leave` for each (connId, epoch), however many reapers run.
-- @include indices_v1
-- @include room_v1
-- @include reap
if redis.call('EXISTS', at.conns) == 1 then
  local until_limit = integer(limit)
  if redis.call('ZCOUNT', at.last_seen, '-inf', until_limit) > old
    or redis.call('ZCOUNT', at.last_seen, '(' .. integer(now), '+inf') > 0 then
    -- More candidates than this call was given: look again at once.
    oldest = limit
  end
  local first = redis.call('ZRANGEBYSCORE', at.last_seen, '(' .. until_limit, '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    oldest = math.min(oldest, first[2])
  end
  if oldest < math.huge then
    redis.call('ZADD', at.due, integer(oldest), room)
  end
end
return { removed, lag, mended, rescored }
