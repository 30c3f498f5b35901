-- lock_revoke: revokes a lock, whoever holds it.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string
-- ARGV[3] – the owner that the caller knows of, as JSON string; '' for none
-- ARGV[4] – the same, unquoted
--
-- Returns {REVOKED, owner, token or ''}, or {FREE}
--      or {FOREIGN, owner}: other software wrote the lock, so its owner is not known as JSON; nothing
--         was revoked, call again with the owner
--      or the error WRONGTYPE: a key of the lock holds another type of value
--
-- Races: the holder and the next waiter are notified in the same step. A holder that cannot be
-- notified is stopped by its fencing token, because the next grant has a newer one.
-- @include lock
local REVOKED = 0
local FREE = 1
local FOREIGN = 2

local name, name_json = ARGV[1], ARGV[2]
local record, held_by, unreadable = look(name, name_json)
if unreadable then
  return corrupt()
end
if not held_by then
  return { FREE }
end
local token = record and record[TOKEN] or ''
if record then
  redis.call('DEL', KEYS[1], KEYS[3])
  forgotten(name)
  emit('revoked', name_json, record[OWNER_JSON], token)
  notify_holder(record)
elseif ARGV[3] ~= '' and ARGV[4] == held_by then
  redis.call('DEL', KEYS[1])
  emit('revoked', name_json, ARGV[3], 'null')
else
  return { FOREIGN, held_by }
end
wake_next()
return { REVOKED, held_by, token }
