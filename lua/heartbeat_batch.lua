-- heartbeat_batch: refreshes many connections whose epoch the node knows. This is the hot path.
--
-- KEYS[1..R]     – prs:{room}:last_seen of each of the R rooms
-- KEYS[R+1..R+N] – prs:conn:<connId> of each of the N connections, room by room
-- KEYS[R+N+1..]  – prs:conn:<connId>:state of those that have one
--
-- ARGV[1] – ttl (ms)   ARGV[2] – R
-- ARGV[3] – position of the connId in a connection's key (1-based). On the layout slotted, where
--           rooms are part of these keys: 0 or less, relative to the length of the room's key
-- ARGV[4] – the expected epochs of all connections, concatenated; all have the same length. They begin
--           with '+' for connections with an owner (include/owner.lua): all or none
-- ARGV[5] – that length
-- ARGV[6] – number of connections of each room, in two bytes each, high byte first
--
-- Returns only the misses, as a flat list: index (0-based), stored epoch (text; '' if there is no
-- such connection), index, … A miss was not written.
--
-- Races: an epoch identifies one join of one connection, so an equal epoch also means the room and
-- the user that the node remembers. A leave, reap or rejoin in between changes or removes the epoch.
-- Then nothing is written here: no connection is restored, and no other room is changed. The state of
-- a connection that is gone expires after one more ttl at the latest, unless reap.lua removes it
-- before.
--
-- Every argument, call and table costs server time.
-- docs/decisions/0003-form-of-the-heartbeat-script.md has measurements.
local call, sub, byte, unpack = redis.call, string.sub, string.byte, unpack
-- @include now
-- @include owned_score
local rooms, id_at = tonumber(ARGV[2]), tonumber(ARGV[3])
local epochs, width, counts = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local seen = string.format('%d', now)
local expires = string.format('%d', now + tonumber(ARGV[1]))
local score = sub(epochs, 1, 1) == '+' and owned_score(expires) or seen
local exceptions = {}
local keys, key, at = KEYS, rooms, 1
-- The arguments of a ZADD. One table is used for all rooms; elements after n belong to an earlier
-- room.
local add = {}

for room = 1, rooms do
  local n = 1
  local id_at = id_at > 0 and id_at or #keys[room] + id_at
  local high, low = byte(counts, 2 * room - 1, 2 * room)
  for _ = 1, 256 * high + low do
    key = key + 1
    local conn = keys[key]
    local epoch = call('HGET', conn, 'epoch')
    if epoch == sub(epochs, at, at + width - 1) then
      -- PEXPIREAT must come first: a server that is out of memory refuses the HSET of a script that
      -- has not written anything, and connections must not expire because of that.
      call('PEXPIREAT', conn, expires)
      call('HSET', conn, 'last_seen_ms', seen)
      add[n + 1] = score
      add[n + 2] = sub(conn, id_at)
      n = n + 2
    else
      exceptions[#exceptions + 1] = key - rooms - 1
      exceptions[#exceptions + 1] = epoch or ''
    end
    at = at + width
  end
  if n == 3 then
    call('ZADD', keys[room], score, add[3])
  elseif n > 1 then
    add[1] = keys[room]
    call('ZADD', unpack(add, 1, n))
  end
end
for state = key + 1, #keys do
  call('PEXPIREAT', keys[state], expires)
end
return exceptions
