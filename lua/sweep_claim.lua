-- sweep_claim: takes the rooms in which something may be due now, for the caller to look at.
--
-- KEYS[1] – prs:active_rooms   KEYS[2..S+1] – the shards of the due index
-- ARGV[1] – how many rooms at most from each shard   ARGV[2] – for how long they are taken (ms)
-- ARGV[3] – time between two checks of a shard (ms)
--
-- Returns {unindexed, first, shard (0-based), roomId, shard, roomId, …}. unindexed: by how much the
-- numbers of active and of indexed rooms differ; other than 0, other nodes may have made rooms that
-- have no entry yet. first: the first shard that has rooms, -1 if none has. An empty roomId: the
-- shard itself is to be checked.
--
-- Races: taking a room moves its entry forward, so that nobody else is given it in the meantime. A
-- caller that dies leaves the entry as it is: the room comes due again when the claim ends. The
-- entry is only a hint of when to look; what dies is decided by looking at it again (reap.lua).
-- @include now
-- @include goes_on
-- @include forget_room
local most, claim, check = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
goes_on(KEYS[1])
local unindexed = redis.call('SCARD', KEYS[1])
local first = -1
local taken = {}
for shard = 2, #KEYS do
  local rooms = redis.call('ZRANGEBYSCORE', KEYS[shard], '-inf', now, 'LIMIT', 0, most)
  if #rooms > 0 then
    local claims = { KEYS[shard] }
    for i = 1, #rooms do
      taken[#taken + 1] = shard - 2
      taken[#taken + 1] = rooms[i]
      claims[2 * i] = now + (rooms[i] == CHECK_MEMBER and check or claim)
      claims[2 * i + 1] = rooms[i]
    end
    redis.call('ZADD', unpack(claims))
  end
  local indexed = redis.call('ZCARD', KEYS[shard])
  if indexed > 0 then
    first = first < 0 and shard - 2 or first
    local added = redis.call('ZADD', KEYS[shard], 'NX', now + check, CHECK_MEMBER)
    unindexed = unindexed - indexed + 1 - added
  end
end
table.insert(taken, 1, first)
table.insert(taken, 1, unindexed)
return taken
