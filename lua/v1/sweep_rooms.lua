-- sweep_rooms: checks rooms that may be due. Finds those that may have dead connections, and
-- reschedules the others.
--
-- KEYS[1..S]   – the shards of the due index that the rooms belong to
-- KEYS[S+1..]  – for each room, shard by shard: prs:{room}:last_seen
--
-- ARGV[1] – ttl (ms)   ARGV[2] – how long a room with candidates is claimed (ms)
-- ARGV[3] – position of the roomId in a key (1-based)   ARGV[4] – its end (from the end: < 0)
-- ARGV[5..S+4] – number of rooms of each shard
--
-- Returns indices (0-based) of rooms with candidates, and, as -1 - index, rooms whose last_seen is
-- empty or not a sorted set: they are empty, or their indices do not agree. Both are claimed. The
-- caller must reap or repair them.
--
-- Races: a room that is no longer due is skipped, because another node has inspected it. Claiming a
-- room moves its entry forward, so that no other node gets it in the meantime. If the caller dies,
-- the entry stays, and the room becomes due again when the claim ends. A join after this step lowers
-- the entry again (ZADD LT).
-- @include now
-- @include allow_write_on_oom
-- @include owner
-- Numbers are passed as text. Converting each argument in Lua would cost a tenth of the time.
local call, sub = redis.call, string.sub
local limit = now - tonumber(ARGV[1])
local taken_until = limit + tonumber(ARGV[2])
-- The latest possible time of an entry: that of a join now, or of a room that was claimed just now.
local latest = now + tonumber(ARGV[2])
local id_from, id_to = tonumber(ARGV[3]), tonumber(ARGV[4])
-- Times in the future: the server's clock was set back, or a legacy node's clock is ahead. In the same
-- range are connections with owners whose TTL has ended.
local from_future, owned_until = '(' .. integer(now), OWNED + now
local shards = #ARGV - 4

-- is_due: whether a room's entry says that the room has to be checked.
local function is_due(entry)
  local at = tonumber(entry)
  return not at or at <= limit or at > latest and at <= owned_until
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
      -- A room whose key has another type must not prevent the check of the others.
      local oldest = redis.pcall('ZRANGE', KEYS[key], '0', '0', 'WITHSCORES')[2]
      local seen = tonumber(oldest)
      local later_at
      if seen and seen > limit and call('ZCOUNT', KEYS[key], from_future, owned_score(now)) == 0 then
        later_at = seen < OWNED and oldest or owned_due(seen, now)
      elseif entries[i] or oldest then
        later_at = taken_until
        local index = key - shards - 1
        open[#open + 1] = oldest and index or -1 - index
      end
      -- Without an entry and without connections, the room has been removed in the meantime.
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
