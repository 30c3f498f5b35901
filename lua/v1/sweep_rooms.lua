-- sweep_rooms: looks at rooms that may be due: in which something may be dead, and of the others, when
-- to look again.
--
-- KEYS[1..S]   – the shards of the due index that the rooms belong to
-- KEYS[S+1..]  – for each room, shard by shard: prs:{room}:last_seen
--
-- ARGV[1] – ttl (ms)   ARGV[2] – for how long a room with candidates is taken (ms)
-- ARGV[3] – where the roomId begins in a key (1-based)   ARGV[4] – where it ends (from the end: < 0)
-- ARGV[5..S+4] – how many of the rooms each shard has
--
-- Returns indices (0-based) of rooms with candidates; and as -1 - index, rooms of which last_seen is empty
-- or no zset: nobody is there, or their indices do not agree. Both are taken: the caller is to reap or
-- repair them.
--
-- Races: a room that is no longer due when this comes is left alone: another has looked at it. Taking a room
-- moves its entry forward, so nobody else is given it in the meantime. A caller that dies leaves the entry
-- as it is: the room comes due again when it was taken for long enough. A join that comes after this step
-- lowers the entry again (ZADD LT).
-- @include now
-- @include allow_write_on_oom
-- Numbers as text: Lua's conversion of each argument would cost a tenth of the look.
local call, sub = redis.call, string.sub
local limit = now - tonumber(ARGV[1])
local taken_until = limit + tonumber(ARGV[2])
-- The latest that an entry can be: a join now, or a room that was taken just now.
local latest = now + tonumber(ARGV[2])
local id_from, id_to = tonumber(ARGV[3]), tonumber(ARGV[4])
-- Nobody can have been heard of then: the server's clock went back, or a legacy node's is ahead.
local from_future = string.format('(%.0f', now)
local shards = #ARGV - 4

-- is_due: whether a room's entry says that it is to be looked at.
local function is_due(entry)
  local at = tonumber(entry)
  return not at or at <= limit or at > latest
end

allow_write_on_oom(KEYS[1])
local open = {}
local key = shards

for shard = 1, shards do
  local rooms = {}
  for i = 1, tonumber(ARGV[shard + 4]) do
    rooms[i] = sub(KEYS[key + i], id_from, id_to)
  end
  local entries = call('ZMSCORE', KEYS[shard], unpack(rooms))
  local later, n = { KEYS[shard] }, 1
  for i = 1, #rooms do
    key = key + 1
    if is_due(entries[i]) then
      -- One room whose key is of another type must not keep the others from being looked at.
      local oldest = redis.pcall('ZRANGE', KEYS[key], '0', '0', 'WITHSCORES')[2]
      local seen = tonumber(oldest)
      local later_at
      if seen and seen > limit and call('ZCOUNT', KEYS[key], from_future, '+inf') == 0 then
        later_at = oldest
      elseif entries[i] or oldest then
        later_at = taken_until
        local index = key - shards - 1
        open[#open + 1] = oldest and index or -1 - index
      end
      -- Without an entry and anybody in it, the room has been forgotten since.
      if later_at then
        later[n + 1] = later_at
        later[n + 2] = rooms[i]
        n = n + 2
      end
    end
  end
  if n > 1 then
    call('ZADD', unpack(later))
  end
end
return open
