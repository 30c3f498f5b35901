-- due_reschedule: sets when rooms of one shard can be due (layout slotted).
--
-- KEYS[1] – the shard of the due index
--
-- ARGV[1] – '1' if entries may only be added or lowered
-- ARGV[2..] – for each room: roomId, time in ms until a connection in it can be due, as room_inspect.lua
--             returns it; -1 if the room is gone
--
-- Returns how many rooms had no entry before.
--
-- Races: after inspecting a room, a node only moves an existing entry, because the room may have
-- ended since. An entry is a hint. If an entry is removed while a join fills its room again, the join
-- adds the entry again, because it knows that the room was empty.
-- @include now
-- @include event
-- @include due_check
-- @include allow_write_on_oom
local added = 0
if ARGV[1] ~= '1' then
  allow_write_on_oom(KEYS[1])
end
for i = 2, #ARGV, 2 do
  local room, wait = ARGV[i], tonumber(ARGV[i + 1])
  if wait < 0 then
    redis.call('ZREM', KEYS[1], room)
  elseif ARGV[1] == '1' then
    added = added + redis.call('ZADD', KEYS[1], 'LT', integer(now + wait), room)
  else
    redis.call('ZADD', KEYS[1], 'XX', integer(now + wait), room)
  end
end
if redis.call('ZCARD', KEYS[1]) == 1 then
  redis.call('ZREM', KEYS[1], CHECK_MEMBER)
end
return added
