-- patch_check: lets a transaction that writes a patched state through, or makes it come to nothing.
-- Sent as WATCH KEYS[1] KEYS[2] · this script · MULTI … EXEC, in one go.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:conn:<connId>:state
-- ARGV[1] – userId   ARGV[2] – roomId   ARGV[3] – the connection's epoch
-- ARGV[4] – state_rev as the caller knows it   ARGV[5] – how long the stored state is (bytes)
-- ARGV[6] – '1' if it is in KEYS[2], '0' if it is in the hash
-- ARGV[7] – the time (ms) that the event says   ARGV[8] – by how many ms it may be late
--
-- Returns {PASSED, now} or {REFUSED, now}. REFUSED has touched a watched key, so EXEC does nothing.
--
-- Races: whatever another client writes to the connection between this script and EXEC makes EXEC
-- do nothing, too. That the stored state is the one that the patch was merged into, is told without
-- reading it: every write of Rollcall raises state_rev; and who writes a state without knowing of
-- that (a TypeScript node) writes last_seen_ms as well, without the leading zero that Rollcall puts
-- there with a large state in the hash. A state in a key of its own is written by Rollcall alone;
-- others would write it into the hash. Everything runs in pcall, because an error that left the
-- script would let the transaction through.
-- @include now
-- @include event
local PASSED = 0
local REFUSED = 1

local function passes()
  local found = redis.call('HMGET', KEYS[1], 'user_id', 'room_id', 'epoch', 'state_rev', 'last_seen_ms')
  for i = 1, 4 do
    if found[i] ~= ARGV[i] then
      return false
    end
  end
  local late = now - tonumber(ARGV[7])
  if late < 0 or late > tonumber(ARGV[8]) then
    return false
  end
  local length = redis.call('HSTRLEN', KEYS[1], 'state')
  if ARGV[6] == '1' then
    return length == 0 and redis.call('STRLEN', KEYS[2]) == tonumber(ARGV[5])
  end
  return length == tonumber(ARGV[5]) and string.sub(found[5] or '', 1, 1) == '0'
end

local sound, passed = pcall(passes)
if sound and passed then
  return { PASSED, integer(now) }
end
local left = redis.call('PTTL', KEYS[1])
if left == -2 then
  redis.call('SET', KEYS[1], '', 'PX', 1)
  redis.call('DEL', KEYS[1])
elseif left == -1 then
  redis.call('PEXPIRE', KEYS[1], 1000)
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], math.max(left, 1))
end
return { REFUSED, integer(now) }
