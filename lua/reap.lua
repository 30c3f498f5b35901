-- reap: removes those of a room's candidates that are dead, publishing `leave` (reason "timeout")
-- for each, and moves the room's entry in the due index.
--
-- KEYS[1] – prs:{room}:conns       KEYS[2] – prs:{room}:members    KEYS[3] – prs:{room}:last_seen
-- KEYS[4] – prs:{room}:conn_meta   KEYS[5] – prs:{room}:events (channel)
-- KEYS[6] – prs:active_rooms       KEYS[7] – the room's shard of the due index
-- KEYS[8..] – for each candidate: prs:conn:<connId>, prs:user:<userId>:conns,
--             prs:user:<userId>:rooms
--
-- ARGV[1] – roomId   ARGV[2] – roomId as JSON string   ARGV[3] – ttl (ms)
-- ARGV[4..] – for each candidate: connId, connId as JSON string, userId, userId as JSON string
--             ('' if nobody knows the user), epoch, raw conn_meta as it was read ('' if missing)
--
-- Returns {removed, lag, mended}: how many were removed; by how many ms the one that had been dead
-- for longest is late; how many hashes without a TTL were found.
--
-- Races: everything is looked at again here. A connection whose hash is back (and in this room)
-- lives; one whose conn_meta is no longer what was read has been joined anew and waits for the
-- next pass; one that no index of the room knows has been removed, and announced, by somebody
-- else. So there is one `leave` for each (connId, epoch), however many reapers run.
-- @include now
-- @include goes_on
-- @include dead
local room, room_json, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local candidates = (#KEYS - 7) / 3
local removed, lag, mended = 0, 0, 0
local next_due = math.huge
goes_on(KEYS[7])

for i = 0, candidates - 1 do
  local conn_key, user_conns, user_rooms = KEYS[8 + 3 * i], KEYS[9 + 3 * i], KEYS[10 + 3 * i]
  local conn, conn_json = ARGV[4 + 6 * i], ARGV[5 + 6 * i]
  local user, user_json = ARGV[6 + 6 * i], ARGV[7 + 6 * i]
  local epoch, meta = ARGV[8 + 6 * i], ARGV[9 + 6 * i]

  local hash = redis.call('HMGET', conn_key, 'room_id', 'user_id', 'last_seen_ms')
  local left
  if hash[1] == room then
    local no_ttl
    left, no_ttl = time_left(conn_key, hash[3], ttl)
    mended = mended + (no_ttl and 1 or 0)
  end
  if left then
    -- Last seen longer ago than our ttl and still alive: its own node gave it a longer one.
    next_due = math.min(next_due, now + left)
  elseif (redis.call('HGET', KEYS[4], conn) or '') == meta then
    local seen = redis.call('ZSCORE', KEYS[3], conn)
    local at = {
      conns = KEYS[1], members = KEYS[2], last_seen = KEYS[3], conn_meta = KEYS[4], events = KEYS[5],
      user_conns = user_conns, user_rooms = user_rooms, active = KEYS[6], due = KEYS[7],
    }
    if remove_dead(at, room, room_json, user, user_json, conn, conn_json, epoch, hash[1], hash[2]) then
      removed = removed + 1
      lag = math.max(lag, seen and (now - seen - ttl) or 0)
    end
  else
    next_due = now
  end
end

if redis.call('EXISTS', KEYS[1]) == 1 then
  local limit = integer(now - ttl)
  if redis.call('ZCOUNT', KEYS[3], '-inf', limit) > candidates - removed then
    -- More candidates than this call was given: look again at once.
    next_due = now
  end
  local first = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. limit, '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    next_due = math.min(next_due, first[2] + ttl)
  end
  if next_due < math.huge then
    redis.call('ZADD', KEYS[7], next_due, room)
  end
end
return { removed, lag, mended }
