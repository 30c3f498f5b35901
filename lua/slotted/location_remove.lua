-- location_remove: records that a connection is no longer in a room (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – the epoch of the join that is over
-- ARGV[3] – how long an unconfirmed claim stays (ms)
--
-- Returns {entries, older}: the number of removed entries; '1' if one of them was that of an older
--         join that was confirmed in the room. If the older join came after the join that is over, it
--         is too late and must be ended.
--
-- Races: entries of newer joins stay. A join that follows within the epoch's millisecond must not get
-- the same epoch again, so the last entry stays until the clock has passed the epoch.
-- @include now
-- @include event
-- @include at
local room, epoch = ARGV[1], tonumber(ARGV[2])
-- An epoch that joins ignore is not newer than any claim.
local claims_until = usable_epoch(epoch)
local gone, older = 0, '0'
for kind, newest in pairs({ s = epoch, c = claims_until }) do
  local field = kind .. ':' .. room
  local value = redis.call('HGET', KEYS[1], field)
  if value and epoch_of(value) <= newest then
    gone = gone + redis.call('HDEL', KEYS[1], field)
    if kind == 's' and epoch_of(value) < epoch then
      older = '1'
    end
  end
end
-- Claims of older joins that have not joined yet. These joins are too late.
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 2) == 'c:' and epoch_of(all[i + 1]) < claims_until then
    gone = gone + redis.call('HDEL', KEYS[1], all[i])
  end
end
if gone > 0 then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    expire_claims(KEYS[1], ARGV[3])
  elseif epoch >= now and epoch - now < 1000 then
    redis.call('HSET', KEYS[1], 'c:' .. room, ARGV[2] .. ':')
    redis.call('PEXPIRE', KEYS[1], integer(epoch - now + 1))
  end
end
return { gone, older }
