-- @include candidate
-- @include allow_write_on_oom
-- Removes the candidates that are dead, for all layouts.
local candidates = math.floor((#ARGV - 3) / 6)
local removed, lag, mended, rescored = 0, 0, 0, 0
-- Candidates that stay although they were last seen longer ago than our ttl.
local old = 0
-- The room is due again one ttl after this time.
local limit = now - ttl
local oldest = math.huge
check_publish_acl(at)
allow_write_on_oom(at.events)

for i = 0, candidates - 1 do
  local c = candidate(i, 4)
  local left, no_ttl = look_again(c)
  mended = mended + no_ttl
  local seen = tonumber(redis.call('ZSCORE', at.last_seen, c.conn) or nil)
  if left and seen and seen > now then
    -- The server's clock went back, or a legacy node's clock is ahead.
    redis.call('ZADD', at.last_seen, integer(now), c.conn)
    rescored = rescored + 1
  elseif left then
    old = old + 1
    -- Last seen longer ago than our ttl, and still alive: its own node has a longer ttl.
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
