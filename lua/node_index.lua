-- node_index: writes when a node has to be looked at.
--
-- KEYS[1] – prs:nodes
-- ARGV[1] – the node's id   ARGV[2] – after so many ms; -1: it has no record any more
--
-- Returns nothing.
--
-- Races: the index is a hint. A node writes its entry with each renewal.
-- @include now
-- @include integer
if ARGV[2] == '-1' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], integer(now + ARGV[2]), ARGV[1])
end
return {}
