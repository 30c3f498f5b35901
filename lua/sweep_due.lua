-- sweep_due: the rooms in which something may be due now.
--
-- KEYS[1..S] – the shards of the due index that are to be swept
-- ARGV[1] – how many rooms at most from each shard
--
-- Returns {now, shard (0-based), roomId, shard, roomId, …}.
--
-- Races: none that matter. The entry of a room is a lower bound; whoever looks at the room next
-- decides by the room itself.
-- @include now
local due = { now }
for shard = 1, #KEYS do
  local rooms = redis.call('ZRANGEBYSCORE', KEYS[shard], '-inf', now, 'LIMIT', 0, ARGV[1])
  for i = 1, #rooms do
    due[#due + 1] = shard - 1
    due[#due + 1] = rooms[i]
  end
end
return due
