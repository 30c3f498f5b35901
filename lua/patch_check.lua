-- patch_check: lets a transaction that writes a patched state into a key of its own through, or makes
-- it come to nothing. Sent as WATCH KEYS[1] KEYS[2] · this script · MULTI … EXEC, in one go.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:conn:<connId>:state
-- ARGV[1] – userId   ARGV[2] – roomId   ARGV[3] – the connection's epoch
-- ARGV[4] – state_rev as the caller knows it   ARGV[5] – how long KEYS[2] is (bytes)
-- ARGV[6] – the time (ms) that the event says
--
-- Returns {PASSED, now} or {REFUSED, now}. REFUSED has touched a watched key, so EXEC does nothing.
--
-- Races: whatever another client writes to the connection between this script and EXEC makes EXEC
-- do nothing, too. The script recognises the state that the patch was merged into without reading it:
-- only Rollcall writes KEYS[2], and raises state_rev each time; others write a state into the hash.
-- Everything runs in pcall, because an error that left the script would let the transaction through.
-- @include now
-- @include event
local PASSED = 0
local REFUSED = 1

-- By how much the time in the event may be late. Beyond it heartbeat.lua writes the patch.
local MAX_LATE_MS = 250

local function passes()
  local found = redis.call('HMGET', KEYS[1], 'user_id', 'room_id', 'epoch', 'state_rev')
  for i = 1, 4 do
    if found[i] ~= ARGV[i] then
      return false
    end
  end
  local late = now - tonumber(ARGV[6])
  return late >= 0 and late <= MAX_LATE_MS
    and redis.call('HEXISTS', KEYS[1], 'state') == 0
    and redis.call('STRLEN', KEYS[2]) == tonumber(ARGV[5])
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
