-- node_due: the nodes that have to be looked at: those whose leases end within half of their length,
-- and dead ones that still have connections.
--
-- KEYS[1] – prs:nodes
-- ARGV[1] – the furthest in the future that an entry can be (ms)   ARGV[2] – maximum number
--
-- Returns the ids of the nodes.
--
-- Races: the index is a hint. node_look.lua decides. An entry further in the future was written
-- before the server's clock was set back.
-- @include now
-- @include integer
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(now), 'LIMIT', 0, ARGV[2])
local ahead = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. integer(now + ARGV[1]), '+inf', 'LIMIT', 0,
  ARGV[2])
for i = 1, #ahead do
  due[#due + 1] = ahead[i]
end
return due
