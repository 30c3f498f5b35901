-- sweep_rooms: looks at rooms that may be due: in which something may be dead, and of the others, when
-- to look again, or that a node is to attend them.
--
-- KEYS[1..S]   – the shards of the due index that the rooms belong to
-- KEYS[S+1..]  – for each room, shard by shard: prs:{room}:last_seen
--
-- ARGV[1] – ttl (ms)   ARGV[2] – for how long a room with candidates is taken (ms)
-- ARGV[3] – where the roomId begins in a key (1-based)   ARGV[4] – where it ends (from the end: < 0)
-- ARGV[5] – for each room '1' if the node would attend it, else '0'; one text, '' for none
-- ARGV[6] – the node's id   ARGV[7] – for how long it answers for what it attends (ms)
-- ARGV[8] – it attends rooms in which everybody was last heard of after so long ago (ms)
-- ARGV[9] – '1' to look at rooms whatever node says that it attends them
-- ARGV[10..S+9] – how many of the rooms each shard has
--
-- Returns {open, attended}. open: indices (0-based) of rooms with candidates; and as -1 - index, rooms of
-- which last_seen is empty or no zset: nobody is there, or their indices do not agree. Both are taken: the
-- caller is to reap or repair them. attended: indices of the rooms that the node attends from now on; all
-- others it does not, or no longer.
--
-- Races: a room that is no longer due when this comes is left alone: another has looked at it, or a node has
-- come to attend it. Taking a room moves its entry forward, so nobody else is given it in the meantime. A
-- caller that dies leaves the entry as it is: the room comes due again when it was taken for long enough. A
-- join that comes after this step lowers the entry again (ZADD LT), but not that of a room that is attended:
-- its node sees the connection with its next look.
-- @include now
-- @include goes_on
-- @include marks
-- Numbers as text: Lua's conversion of each argument would cost a tenth of the look.
local call, sub, byte = redis.call, string.sub, string.byte
local ttl = tonumber(ARGV[1])
local limit = now - ttl
local taken_until = limit + tonumber(ARGV[2])
-- The latest that an entry can be: a join now, or a room that was taken just now.
local latest = now + tonumber(ARGV[2])
local id_from, id_to = tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted, attendant = ARGV[5], '-' .. ARGV[6]
local young = now - tonumber(ARGV[8])
local WANTED, MINUS = byte('1'), byte('-')
-- Nobody can have been heard of then: the server's clock went back, or a legacy node's is ahead.
local from_future = string.format('(%.0f', now)
local shards = #ARGV - 9

-- is_due: whether a room's entry says that it is to be looked at. One that a node attends is, if that is
-- this one, which gives it back, or does not answer for it any more.
local function is_due(shard, entry)
  if not entry or entry == attendant then
    return true
  elseif byte(entry) ~= MINUS then
    local at = tonumber(entry)
    return at <= limit or at > latest
  end
  local mark = tonumber(call('ZSCORE', shard, NODE_MARK .. sub(entry, 2)))
  return not mark or mark <= MARKS + now or mark > MARKS + now + ttl or ARGV[9] == '1'
end

goes_on(KEYS[1])
local open, attended = {}, {}
local key = shards

for shard = 1, shards do
  local index_key, rooms = KEYS[shard], {}
  for i = 1, tonumber(ARGV[shard + 9]) do
    rooms[i] = sub(KEYS[key + i], id_from, id_to)
  end
  local entries = call('ZMSCORE', index_key, unpack(rooms))
  local later, n, of_shard = { index_key }, 1, #attended
  for i = 1, #rooms do
    key = key + 1
    local index = key - shards - 1
    if is_due(index_key, entries[i]) then
      -- One room whose key is of another type must not keep the others from being looked at.
      local oldest = redis.pcall('ZRANGE', KEYS[key], '0', '0', 'WITHSCORES')[2]
      local seen = tonumber(oldest)
      local later_at
      if seen and seen > limit and call('ZCOUNT', KEYS[key], from_future, '+inf') == 0 then
        later_at = oldest
        if seen > young and byte(wanted, index + 1) == WANTED then
          later_at = attendant
          attended[#attended + 1] = index
        end
      elseif entries[i] or oldest then
        later_at = taken_until
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
  if #attended > of_shard then
    later[n + 1] = mark_at(now + tonumber(ARGV[7]))
    later[n + 2] = NODE_MARK .. ARGV[6]
    n = n + 2
  end
  if n > 1 then
    call('ZADD', unpack(later))
  end
end
return { open, attended }
