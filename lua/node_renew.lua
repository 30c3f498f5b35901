-- node_renew: begins or renews the lease of a node.
--
-- KEYS[1] – prs:{node:<id>}   KEYS[2] – prs:{node:<id>}:conns
-- ARGV[1] – lease (ms)   ARGV[2] – TTL of both keys (ms)   ARGV[3] – '1' to begin, '0' to renew
--
-- Returns {RENEWED}, {DEAD}: the node was declared dead, or {MISSING}: it has no record
--
-- Races: a node is declared dead on the same key (node_look.lua). The first of both decides.
-- @include now
-- @include integer
local RENEWED = 0
local DEAD = 1
local MISSING = 2

local lease = tonumber(ARGV[1])
local found = redis.call('HMGET', KEYS[1], 'ends', 'dead')
if found[2] then
  return { DEAD }
end
if not found[1] and ARGV[3] ~= '1' then
  return { MISSING }
end
redis.call('HSET', KEYS[1], 'ends', integer(now + lease), 'lease', ARGV[1])
redis.call('HDEL', KEYS[1], 'watched', 'watched_from')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return { RENEWED }
