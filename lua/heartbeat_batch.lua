-- heartbeat_batch: refreshes many connections whose epoch the node knows; the hot path.
--
-- KEYS[1..R]     – prs:{room}:last_seen of each of the R rooms
-- KEYS[R+1..R+N] – prs:conn:<connId> of each of the N connections, room by room
--
-- ARGV[1] – ttl (ms)   ARGV[2] – R
-- ARGV[3..R+2] – how many of the connections each room has
-- ARGV[R+3..]  – connId and expected epoch of each connection, in the order of KEYS
--
-- Returns the exceptions only, flat: index (0-based), stored epoch (text; '' if there is no such
-- connection), index, … An exception was not written.
--
-- Races: an epoch names one join of one connection, so an equal epoch also means the room and the
-- user that the node remembers. A leave, reap or rejoin in between changes or removes the epoch,
-- and then nothing is written here: no connection is brought back, no foreign room is touched.
-- @include now
local ttl, rooms = ARGV[1], tonumber(ARGV[2])
local seen = string.format('%.0f', now)
local exceptions = {}
local key, arg, index = rooms, rooms + 2, 0

for room = 1, rooms do
  local add = { KEYS[room] }
  local n = 1
  for _ = 1, tonumber(ARGV[room + 2]) do
    key = key + 1
    local conn = KEYS[key]
    local epoch = redis.call('HGET', conn, 'epoch')
    if epoch == ARGV[arg + 2] then
      redis.call('HSET', conn, 'last_seen_ms', seen)
      redis.call('PEXPIRE', conn, ttl)
      add[n + 1] = seen
      add[n + 2] = ARGV[arg + 1]
      n = n + 2
    else
      exceptions[#exceptions + 1] = index
      exceptions[#exceptions + 1] = epoch or ''
    end
    arg = arg + 2
    index = index + 1
  end
  if n > 1 then
    redis.call('ZADD', unpack(add))
  end
end
return exceptions
