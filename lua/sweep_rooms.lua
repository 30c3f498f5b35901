-- sweep_rooms: looks at rooms that may be due: in which something may be dead, and of the others, when
-- to look again. The one script that live rooms cost anything.
--
-- KEYS[1..S]   – the shards of the due index that the rooms belong to
-- KEYS[S+1..]  – for each room, shard by shard: prs:{room}:last_seen
--
-- ARGV[1] – ttl (ms)   ARGV[2] – for how long a room with candidates is taken (ms)
-- ARGV[3] – where the roomId begins in a key (1-based)   ARGV[4] – where it ends (from the end: < 0)
-- ARGV[5..S+4] – how many of the rooms each shard has
--
-- Returns indices (0-based) of rooms with candidates; and as -1 - index, rooms of which last_seen is
-- empty or no zset: nobody is there, or their indices do not agree. Both are taken: the caller is to reap or
-- repair them.
--
-- Races: taking a room moves its entry forward, so nobody else is given it in the meantime, and of
-- two that were given it at the same time, the second finds it taken here. A caller that dies leaves
-- the entry as it is: the room comes due again when it was taken for long enough. A join that comes
-- after this step lowers the entry again (ZADD LT).
-- @include now
-- @include goes_on
-- Numbers as text: Lua's conversion of each argument would cost a tenth of the look.
local call, sub = redis.call, string.sub
local limit = now - tonumber(ARGV[1])
local taken_until = limit + tonumber(ARGV[2])
local id_from, id_to = tonumber(ARGV[3]), tonumber(ARGV[4])
local shards = #ARGV - 4
goes_on(KEYS[1])
local open = {}
local key = shards

for shard = 1, shards do
  local later, n = { KEYS[shard] }, 1
  for _ = 1, tonumber(ARGV[shard + 4]) do
    key = key + 1
    -- One room whose key is of another type must not keep the others from being looked at.
    local oldest = redis.pcall('ZRANGE', KEYS[key], '0', '0', 'WITHSCORES')[2]
    local room = sub(KEYS[key], id_from, id_to)
    if oldest and tonumber(oldest) > limit then
      later[n + 1] = oldest
      later[n + 2] = room
      n = n + 2
    else
      -- Without an entry and anybody in it, the room has been forgotten since.
      local entry = tonumber(call('ZSCORE', KEYS[shard], room))
      if (entry or oldest) and (entry or limit) <= limit then
        open[#open + 1] = oldest and key - shards - 1 or shards - key
        later[n + 1] = taken_until
        later[n + 2] = room
        n = n + 2
      end
    end
  end
  if n > 1 then
    call('ZADD', unpack(later))
  end
end
return open
