-- node_end: declares a node dead at its own request, because it is closed.
--
-- KEYS[1] – prs:{node:<id>}
-- ARGV[] – none
--
-- Returns nothing.
--
-- Races: a node that has no record was declared dead before, and its connections were removed.
-- @include now
-- @include integer
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSETNX', KEYS[1], 'dead', integer(now))
end
return {}
