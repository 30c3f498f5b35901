-- patch_check: lets a transaction that writes a patched state under a separate key pass, or makes it
-- abort. Sent as WATCH KEYS[1] KEYS[2] · this script · MULTI … EXEC, in one pipeline.
--
-- KEYS[1] – prs:conn:<connId>   KEYS[2] – prs:conn:<connId>:state
-- ARGV[1] – userId   ARGV[2] – roomId   ARGV[3] – the connection's epoch
-- ARGV[4] – state_rev that the caller knows   ARGV[5] – length of KEYS[2] (bytes)
-- ARGV[6] – the time (ms) in the event
--
-- Returns {PASSED, now} or {REFUSED, now}. REFUSED has modified a watched key, so EXEC aborts.
--
-- Races: if another client writes to the connection between this script and EXEC, EXEC aborts too.
-- The script recognises the state that the patch was merged into without reading it: only Rollcall
-- writes KEYS[2], and increments state_rev each time. Other software writes a state into the hash.
-- Everything runs in pcall, because an uncaught error would let the transaction pass.
-- @include now
-- @include event
local PASSED = 0
local REFUSED = 1

-- Maximum delay of the time in the event (ms). If it is exceeded, heartbeat.lua writes the patch.
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
