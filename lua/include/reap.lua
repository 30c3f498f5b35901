-- @include candidate
-- @include allow_write_on_oom
-- Removes the candidates that are dead, for all layouts. ARGV[4]: a node that was declared dead; its
-- connections are dead, and other candidates are not looked at. '': there is none.
local dead_node = ARGV[4]
local candidates = math.floor((#ARGV - 4) / 6)
local removed, lag, mended, rescored = 0, 0, 0, 0
-- Candidates that stay although they were last seen longer ago than our ttl.
local old = 0
-- The room is due again one ttl after this time.
local limit = now - ttl
local oldest = math.huge
check_publish_acl(at)
allow_write_on_oom(at.events)

for i = 0, candidates - 1 do
  local c = candidate(i, 5)
  local left, no_ttl = look_again(c)
  mended = mended + no_ttl
  local seen = tonumber(redis.call('ZSCORE', at.last_seen, c.conn) or nil)
  if left and dead_node ~= '' then
    if c.owner == dead_node and is_as_read(c) then
      redis.call('DEL', c.key)
      c.hash_room = nil
      removed = removed + (remove_dead(c) and 1 or 0)
    end
  elseif left and seen and (seen > now or c.owner ~= '') then
    -- The server's clock went back, or a legacy node's clock is ahead; or a connection with an owner
    -- lives longer than its score says.
    redis.call('ZADD', at.last_seen, c.owner == '' and integer(now) or owned_score(now + left), c.conn)
    rescored = rescored + 1
  elseif left then
    old = old + 1
    -- Last seen longer ago than our ttl, and still alive: its own node has a longer ttl.
    oldest = math.min(oldest, limit + left)
  elseif is_as_read(c) then
    if remove_dead(c) then
      removed = removed + 1
      lag = math.max(lag, seen and (seen < OWNED and limit - seen or OWNED + now - seen) or 0)
    end
  else
    old = old + 1
    oldest = limit
  end
end
