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
-- ARGV[#ARGV] – the layout: see include/layout.lua
--
-- Returns {removed, lag, mended, rescored}: how many were removed; by how many ms the one that had been
-- dead for longest is late; how many hashes without a TTL were found; how many were last heard of in the
-- future.
--
-- Races: everything is looked at again here. A connection whose hash is back (and in this room)
-- lives; one whose conn_meta is no longer what was read has been joined anew and waits for the
-- next pass; one that no index of the room knows has been removed, and announced, by somebody
-- else. So there is one `leave` for each (connId, epoch), however many reapers run.
-- @include candidate
-- @include allow_write_on_oom
local candidates = (#KEYS - 7) / 4
local removed, lag, mended, rescored = 0, 0, 0, 0
-- Candidates that stay, and were last heard of longer ago than our ttl.
local old = 0
-- When the room comes due again is ttl after this.
local limit = now - ttl
local oldest = math.huge
check_publish_acl(KEYS[5], KEYS[7])
allow_write_on_oom(KEYS[7])

for i = 0, candidates - 1 do
  local c = candidate(i, 4)
  local left, no_ttl = look_again(c)
  mended = mended + no_ttl
  local seen = tonumber(redis.call('ZSCORE', KEYS[3], c.conn) or nil)
  if left and seen and seen > now then
    -- The server's clock went back, or a legacy node's clock is ahead.
    redis.call('ZADD', KEYS[3], integer(now), c.conn)
    rescored = rescored + 1
  elseif left then
    old = old + 1
    -- Last seen longer ago than our ttl and still alive: its own node gave it a longer one.
    oldest = math.min(oldest, limit + left)
  elseif is_as_read(c) then
    if remove_dead(c) then
      removed = removed + 1
      lag = math.max(lag, seen and limit - seen or 0)
    end
  else
    old = old + 1
    oldest = limit
  end
end

if layout == 'v1' and redis.call('EXISTS', KEYS[1]) == 1 then
  local until_limit = integer(limit)
  if redis.call('ZCOUNT', KEYS[3], '-inf', until_limit) > old
    or redis.call('ZCOUNT', KEYS[3], '(' .. integer(now), '+inf') > 0 then
    -- More candidates than this call was given: look again at once.
    oldest = limit
  end
  local first = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. until_limit, '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  if first[2] then
    oldest = math.min(oldest, first[2])
  end
  if oldest < math.huge then
    redis.call('ZADD', KEYS[7], integer(oldest), room)
  end
end
return { removed, lag, mended, rescored }
