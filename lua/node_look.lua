-- node_look: declares a node dead, if it has not renewed its lease in time.
--
-- KEYS[1] – prs:{node:<id>}
-- ARGV[] – none
--
-- Returns {LIVES, wait}: wait: time in ms until the node has to be looked at again; 0: its lease ends
--         soon or has ended, so look again within an eighth of it
--      or {DEAD} or {MISSING}: it has no record
--
-- Races: a renewal decides on the same key (node_renew.lua). Nobody can renew while Redis is away. So
-- the lease must have ended, and looks must have come for half of the lease without a break of more
-- than a quarter: after an outage, nodes have that time to renew. If the clock was set back, the
-- lease is shortened to its full length from now.
-- @include now
-- @include integer
local LIVES = 0
local DEAD = 1
local MISSING = 2

local found = redis.call('HMGET', KEYS[1], 'ends', 'lease', 'dead', 'watched', 'watched_from')
local ends, lease = tonumber(found[1] or ''), tonumber(found[2] or '')
if found[3] then
  return { DEAD }
end
if not ends or not lease then
  return { MISSING }
end
if ends > now + lease then
  ends = now + lease
  redis.call('HSET', KEYS[1], 'ends', integer(ends))
end
if ends > now + lease / 2 then
  return { LIVES, integer(ends - now - lease / 2) }
end
local watched, from = tonumber(found[4] or ''), tonumber(found[5] or '')
if not watched or not from or watched > now or now - watched > lease / 4 then
  from = now
end
if now >= ends and now - from >= lease / 2 then
  redis.call('HSET', KEYS[1], 'dead', integer(now))
  return { DEAD }
end
redis.call('HSET', KEYS[1], 'watched', integer(now), 'watched_from', integer(from))
return { LIVES, '0' }
