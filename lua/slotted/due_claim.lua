-- due_claim: claims rooms of one shard in which a connection may be due now (layout slotted).
--
-- KEYS[1] – the shard of the due index
--
-- ARGV[1] – maximum number of rooms   ARGV[2] – how long they are claimed (ms)
-- ARGV[3] – time between two checks of the shard (ms)
-- ARGV[4] – the furthest that a room's entry can be in the future (ms)
--
-- Returns {rooms, roomId, …}: the number of rooms in the shard, and the claimed rooms. The empty
--         roomId means that the shard is due for a check.
--
-- Races: claiming a room moves its entry forward, so that no other node gets it in the meantime. If
-- the caller dies, the entry stays, and the room becomes due again when the claim ends.
-- @include now
-- @include event
-- @include due_check
-- @include allow_write_on_oom
-- @include impossible
local rooms = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', integer(now), 'LIMIT', 0, ARGV[1])
local longest = math.max(tonumber(ARGV[3]), tonumber(ARGV[4]))
add_impossible(rooms, KEYS[1], now + longest, tonumber(ARGV[1]))
local later = { KEYS[1] }
for i = 1, #rooms do
  later[2 * i] = integer(now + tonumber(rooms[i] == CHECK_MEMBER and ARGV[3] or ARGV[2]))
  later[2 * i + 1] = rooms[i]
end
if #rooms > 0 then
  allow_write_on_oom(KEYS[1])
  redis.call('ZADD', unpack(later))
end
local count = redis.call('ZCARD', KEYS[1])
if count > 0 then
  count = count - 1 + redis.call('ZADD', KEYS[1], 'LT', integer(now + tonumber(ARGV[3])), CHECK_MEMBER)
end
table.insert(rooms, 1, count)
return rooms
