-- The steps of a batch of patches, on every layout. The script that includes this has defined `channels(room)`,
-- the channels of the i-th room, and `before_conns`, the number of keys before those of the connections.
-- @include now
-- @include event
local call, sub, byte, unpack, pcall = redis.call, string.sub, string.byte, unpack, pcall
local keys, args = KEYS, ARGV
local rooms, id_at = tonumber(args[2]), tonumber(args[3])
local epochs, width, counts = args[4], tonumber(args[5]), args[6]
local seen = integer(now)
local expires = integer(now + tonumber(args[1]))
local missed = {}

-- write: the change of a connection that is as expected. Without the right to publish nothing changes: the
-- state is written first, because a server that is out of memory refuses that, and put back.
local function write(conn, at, arg, epoch)
  local after = args[arg + 1]
  if after == '' then
    call('HSET', conn, 'last_seen_ms', seen)
  else
    call('HSET', conn, 'last_seen_ms', seen, 'state', after)
    if not pcall(publish, at, args[arg + 2] .. after .. event_tail(seen, epoch)) then
      call('HSET', conn, 'state', args[arg])
      return false
    end
  end
  call('PEXPIREAT', conn, expires)
  return true
end

local key, arg, first_epoch = before_conns, 7, 1
-- The arguments of a ZADD, and the places of those that it adds. One table for all rooms: entries beyond n
-- belong to another room.
local add, places = {}, {}
for room = 1, rooms do
  local n = 0
  local id_at = id_at > 0 and id_at or #keys[room] + id_at
  local high, low = byte(counts, 2 * room - 1, 2 * room)
  local count = 256 * high + low
  for i = 1, count do
    local conn = keys[key + i]
    local found = redis.pcall('HMGET', conn, 'epoch', 'state', 'compressed')
    local at = first_epoch + (i - 1) * width
    if found[1] == sub(epochs, at, at + width - 1) and found[2] == args[arg + 3 * (i - 1)]
      and not found[3] then
      n = n + 1
      places[n] = i
      add[2 * n] = seen
      add[2 * n + 1] = sub(conn, id_at)
    else
      missed[#missed + 1] = key + i - before_conns - 1
    end
  end
  if n > 0 then
    add[1] = keys[room]
    local refused = type(redis.pcall('ZADD', unpack(add, 1, 2 * n + 1))) == 'table'
    local at = channels(room)
    for j = 1, n do
      local i = places[j]
      local epoch = first_epoch + (i - 1) * width
      if refused or not write(keys[key + i], at, arg + 3 * (i - 1), sub(epochs, epoch, epoch + width - 1)) then
        missed[#missed + 1] = key + i - before_conns - 1
      end
    end
  end
  key, arg, first_epoch = key + count, arg + 3 * count, first_epoch + count * width
end
return missed
