-- sweep_due: begins a pass, unless another node has just made one, and returns the rooms that may be
-- due.
--
-- KEYS[1] – prs:active_rooms   KEYS[2..S+1] – the shards of the due index
-- ARGV[1] – ttl (ms)   ARGV[2] – maximum number of rooms
-- ARGV[3] – how long one node's pass covers all nodes (ms); 0 for a pass in any case
-- ARGV[4] – how long a room with candidates is claimed (ms)
--
-- Returns {TAKEN, now, wait}: another node's pass covers all nodes for this many more ms
--      or {PASS, now, before, unindexed, {shard (0-based), roomId, roomId, …}, {shard, …}, …}
-- before: the time of the previous pass (now, if it is unknown). unindexed: the difference between
-- the numbers of active and of indexed rooms. If it is not 0, legacy nodes may have created rooms
-- that have no entry yet.
--
-- Races: of nodes that call at the same time, one gets the pass. The pass reserves nothing: a room
-- stays due until it was inspected (sweep_rooms.lua), so if that node dies, the next pass finds the
-- rest. An entry is only a hint. reap.lua reads the connections again before it removes any.
-- @include now
-- @include allow_write_on_oom
-- @include size
-- @include forget_room
-- @include impossible
local TAKEN = 0
local PASS = 1

local call = redis.call
local limit, left, serves = now - tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- The latest possible time of an entry: that of a join now, or of a room that was claimed just now.
local latest = now + tonumber(ARGV[4])
local answer = { PASS, now, now, 0 }
local mine = false
local unindexed = size('SCARD', KEYS[1], 0)
for shard = 2, #KEYS do
  local indexed = room_count(KEYS[shard])
  unindexed = unindexed - indexed
  if indexed > 0 and not mine then
    local pass = call('ZSCORE', KEYS[shard], PASS_MEMBER)
    local before = pass and tonumber(pass) - MARKS
    if before and before <= now then
      if before + serves > now then
        return { TAKEN, now, before + serves - now }
      end
      answer[3] = before
    end
    mine = true
    allow_write_on_oom(KEYS[1])
    call('ZADD', KEYS[shard], mark_at(now), PASS_MEMBER)
  elseif indexed > 0 then
    -- It may have been the first shard before.
    call('ZREM', KEYS[shard], PASS_MEMBER)
  end
  if indexed > 0 and left > 0 then
    local rooms = call('ZRANGEBYSCORE', KEYS[shard], '-inf', limit, 'LIMIT', 0, left)
    add_impossible(rooms, KEYS[shard], latest, left)
    if #rooms > 0 then
      left = left - #rooms
      table.insert(rooms, 1, shard - 2)
      answer[#answer + 1] = rooms
    end
  end
end
answer[4] = unindexed
return answer
