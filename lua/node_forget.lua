-- node_forget: removes connections from those of a node, unless they were joined again.
--
-- KEYS[1] – prs:{node:<id>}:conns
-- ARGV[1..] – for each connection: connId, the highest number of an entry that is removed
--
-- Returns nothing.
--
-- Races: a later join of the same connection by this node has an entry with a higher number, which
-- stays.
for i = 1, #ARGV, 2 do
  local number = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^%d+'))
  if number and number <= tonumber(ARGV[i + 1]) then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return {}
