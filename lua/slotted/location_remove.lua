-- location_remove: notes that a connection is no longer in a room (layout slotted).
--
-- KEYS[1] – prs:at:<connId>
--
-- ARGV[1] – roomId   ARGV[2] – the epoch of the join that is over
-- ARGV[3] – for how long a claim stays that nobody settles (ms)
--
-- Returns {entries, older}: how many entries went; '1' if one of them was that of an older join that was
-- settled in the room. If that one came after the join that is over, it is too late, and is to be ended.
--
-- Races: a newer join's entries stay. A join that follows within the epoch's millisecond must not get
-- the same epoch again, so the last entry stays until the clock has passed it.
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
-- Claims of older joins that have not come yet: they are too late.
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
