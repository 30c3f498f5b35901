-- The steps of a batch of patches, on every layout. The script that includes this file defines
-- `try_publish(room, text)` and `before_conns` first. `try_publish` publishes an event of the room with this
-- number (1-based), and returns false if the server refuses it. `before_conns` is the number of keys before
-- those of the connections.
--
-- Every argument, call and table costs time on the server. Redis hashes each string that Lua gets.
-- @include now
-- @include event
-- @include owned_score
local call, pcall, sub, byte, unpack = redis.call, redis.pcall, string.sub, string.byte, unpack
local keys, args = KEYS, ARGV
local id_at, epochs, width, counts = tonumber(args[3]), args[4], tonumber(args[5]), args[6]
local seen = integer(now)
local expires = integer(now + tonumber(args[1]))
-- The epochs of connections with an owner begin with '+': all or none.
local digits_from = sub(epochs, 1, 1) == '+' and 1 or 0
local score = digits_from == 1 and owned_score(expires) or seen
local missed = {}
local key, arg, at = before_conns, 7, 1
-- The arguments of a ZADD, and the connections that it adds. All rooms share these tables, so entries beyond
-- n belong to another room.
local add, added = {}, {}

for room = 1, tonumber(args[2]) do
  local n = 0
  local id_at = id_at > 0 and id_at or #keys[room] + id_at
  local high, low = byte(counts, 2 * room - 1, 2 * room)
  for _ = 1, 256 * high + low do
    key = key + 1
    local conn, before, after = keys[key], args[arg], args[arg + 1]
    local epoch = sub(epochs, at, at + width - 1)
    local found = pcall('HMGET', conn, 'epoch', 'state', 'compressed')
    local written = found[1] == epoch and found[2] == before and not found[3]
    if written then
      if after == '' then
        call('HSET', conn, 'last_seen_ms', seen)
      else
        -- Before the event: a server that is out of memory refuses a write only while the script has written
        -- nothing.
        call('HSET', conn, 'last_seen_ms', seen, 'state', after)
        if not try_publish(room, args[arg + 2] .. after .. event_tail(seen, sub(epoch, 1 + digits_from))) then
          -- A change must not be stored without its event.
          call('HSET', conn, 'state', before)
          written = false
        end
      end
    end
    if written then
      call('PEXPIREAT', conn, expires)
      n = n + 1
      added[n] = key
      add[2 * n] = score
      add[2 * n + 1] = sub(conn, id_at)
    else
      missed[#missed + 1] = key - before_conns - 1
    end
    arg = arg + 3
    at = at + width
  end
  if n > 0 then
    add[1] = keys[room]
    if type(pcall('ZADD', unpack(add, 1, 2 * n + 1))) ~= 'number' then
      for i = 1, n do
        missed[#missed + 1] = added[i] - before_conns - 1
      end
    end
  end
end
return missed
