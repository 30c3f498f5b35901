-- @include integer
-- @include now
-- @include may_publish
-- Shared parts of the lock scripts. They all have the same KEYS:
--   KEYS[1] – prs:lock:<name>        KEYS[2] – its newest token    KEYS[3] – the record of its holder
--   KEYS[4] – the queue of waiters   KEYS[5] – the living: wake channel of a node → until when (ms)
--   KEYS[6] – its events (channel)
--   KEYS[7] – index: lock → when its lease ends; absent if the node writes the index with a separate
--             call
-- A waiter is '<number> <wake channel of its node>'. Scripts publish only to channels that they read
-- from what nodes wrote. They do not build channel names.
-- Any of these scripts may find that a lock has ended. It publishes the end in the same step.
may_publish(KEYS[6])

-- Maximum number of waiters of dead nodes that one call removes.
local MAX_DEAD = 64

-- How long a node counts as alive after its last call (ms), as src/lock/queued_lock.rs sends it. A
-- score further in the future was written before the clock was set back.
local MAX_LIVING = 1500

-- read: like redis.call; returns nil and true for a key of another type.
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'WRONGTYPE', 1, true) then
      return nil, true
    end
    error(answer)
  end
  return answer
end

-- corrupt: the reply of a script that cannot serve this lock. Other locks are not affected.
local function corrupt()
  return redis.error_reply('WRONGTYPE a key of this lock holds another type of value')
end

-- indexed, forgotten: update the lock's entry in the index. The index is a hint, so an index key of
-- another type does not fail a lock; lock_due.lua replaces it.
local function indexed(name, ends)
  if KEYS[7] then
    redis.pcall('ZADD', KEYS[7], ends, name)
  end
end

local function forgotten(name)
  if KEYS[7] then
    redis.pcall('ZREM', KEYS[7], name)
  end
end

local BY, OWNER, OWNER_JSON, TOKEN, ENDS, WAKE, NUMBER, TTL = 1, 2, 3, 4, 5, 6, 7, 8

-- emit: publishes an event of the lock, unless owner_json is empty.
local function emit(kind, name_json, owner_json, token)
  if owner_json ~= '' then
    redis.call('PUBLISH', KEYS[6], '{"type":"' .. kind .. '","name":' .. name_json
      .. ',"ownerId":' .. owner_json .. ',"fencingToken":' .. token
      .. ',"ts":' .. integer(now) .. '}')
  end
end

-- notify_holder: notifies the holder's node at once that it has lost the lock.
local function notify_holder(record)
  if record[WAKE] ~= '' then
    redis.call('PUBLISH', record[WAKE], 'lost ' .. record[NUMBER])
  end
end

-- look: returns the record of the holder (nil if the lock is not held through Rollcall), the value of
-- the lock's own key, and true if a key has another type.
-- If the lock of the record has ended, the record is removed and the end is published in the same
-- step. The end is therefore published exactly once. Before the lease ends, only other software can
-- have removed the lock. A lease that ends later than its full length from now was granted before the
-- clock was set back. It is shortened to its full length from now, and so is the key's TTL, which
-- also follows the clock. A live holder renews the lease before that time.
local function look(name, name_json)
  local owner, unreadable = read('GET', KEYS[1])
  local record, foreign = read('HMGET', KEYS[3], 'by', 'owner', 'json', 'token', 'ends', 'wake',
    'number', 'ttl')
  if foreign then
    return nil, owner, true
  end
  if not record[BY] then
    return nil, owner, unreadable
  end
  local ends, ttl = tonumber(record[ENDS] or ''), tonumber(record[TTL] or '')
  if not (ends and tonumber(record[TOKEN] or '') and record[OWNER] and record[OWNER_JSON]
      and record[WAKE] and record[NUMBER]) then
    return nil, owner, true
  end
  if owner == record[OWNER] and now < ends then
    if ttl and ends > now + ttl then
      record[ENDS] = integer(now + ttl)
      -- PEXPIRE first: a server that is out of memory refuses HSET, but only until the script has
      -- written something.
      redis.call('PEXPIRE', KEYS[1], ttl)
      redis.call('HSET', KEYS[3], 'ends', record[ENDS])
      indexed(name, record[ENDS])
    end
    return record, owner
  end
  redis.call('DEL', KEYS[3])
  forgotten(name)
  emit(now < ends and 'revoked' or 'expired', name_json, record[OWNER_JSON], record[TOKEN])
  notify_holder(record)
  return nil, owner, unreadable
end

-- first_waiter: the next waiter for the lock, its wake channel and its number; nil if there is none,
-- false if more dead waiters come before it than one call removes. `mine` is the caller, so it is
-- alive.
local function first_waiter(mine)
  for _ = 1, MAX_DEAD do
    local waiter = redis.call('ZRANGE', KEYS[4], 0, 0)[1]
    if not waiter then
      return nil
    end
    local number, wake = string.match(waiter, '^(%d+) (.*)$')
    if waiter == mine then
      return waiter, wake, number
    end
    local lives_until = wake and tonumber(redis.call('ZSCORE', KEYS[5], wake) or '')
    if lives_until and lives_until > now then
      if lives_until > now + MAX_LIVING then
        -- The clock was set back. A live node refreshes its entry within this time.
        redis.call('ZADD', KEYS[5], integer(now + MAX_LIVING), wake)
      end
      return waiter, wake, number
    end
    redis.call('ZREM', KEYS[4], waiter)
    if wake then
      redis.call('ZREM', KEYS[5], wake)
    end
  end
  return false
end

-- wake_next: notifies only the first waiter that the lock is free. A queue that cannot be read has no
-- waiters to notify, and must not fail what was done before.
local function wake_next()
  local readable, waiter, wake, number = pcall(first_waiter, '')
  if readable and waiter then
    redis.call('PUBLISH', wake, 'turn ' .. number)
  end
end

-- leave_queue: whether the waiter was in the queue. Removing the last waiter also removes the key of
-- the living.
local function leave_queue(waiter)
  local left = read('ZREM', KEYS[4], waiter) == 1
  if left and redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('DEL', KEYS[5])
  end
  return left
end
