-- due_claim: takes rooms of one shard in which something may be due now (layout slotted).
--
-- KEYS[1] – the shard of the due index
--
-- ARGV[1] – how many rooms at most   ARGV[2] – for how long they are taken (ms)
-- ARGV[3] – time between two checks of the shard (ms)
-- ARGV[4] – the longest that a room's entry can lie in the future (ms)
--
-- Returns {rooms, roomId, …}: how many rooms the shard has; the empty roomId: it is to be checked.
--
-- Races: taking a room moves its entry forward, so that nobody else is given it in the meantime. A
-- caller that dies leaves the entry as it is: the room comes due again when it was taken for long
-- enough.
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
