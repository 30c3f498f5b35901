-- @include integer
-- @include now
-- @include may_publish
-- What the scripts of locks share. Their KEYS are always the same:
--   KEYS[1] – prs:lock:<name>        KEYS[2] – its newest token    KEYS[3] – the record of its holder
--   KEYS[4] – the queue of waiters   KEYS[5] – the living: wake channel of a node → until when (ms)
--   KEYS[6] – its events (channel)
--   KEYS[7] – index: lock → when its lease ends; absent where the node writes the index in a step of its own
-- A waiter is '<number> <wake channel of its node>'. The channels that are published to are read from
-- what the nodes themselves wrote: none is built here.

-- Any of these scripts may find that a lock has ended, and tells it in the same step.
may_publish(KEYS[6])

-- Waiters of nodes that are gone which one call takes out.
local MAX_DEAD = 64

-- How long a node counts as living after it was heard of (ms), as src/lock/queued_lock.rs sends it. A score that
-- lies further in the future was written before the clock was set back.
local MAX_LIVING = 1500

-- read: like redis.call; nil and true for a key that holds another type of value.
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

-- corrupt: the answer of a script that cannot serve this lock. Others are not affected.
local function corrupt()
  return redis.error_reply('WRONGTYPE a key of this lock holds another type of value')
end

-- indexed, forgotten: what the index is told of the lock. The index is a hint of where to look, so an
-- index of another type fails no lock; lock_due.lua replaces it.
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

-- emit: publishes an event of the lock. An empty owner_json: nobody is to be told.
local function emit(kind, name_json, owner_json, token)
  if owner_json ~= '' then
    redis.call('PUBLISH', KEYS[6], '{"type":"' .. kind .. '","name":' .. name_json
      .. ',"ownerId":' .. owner_json .. ',"fencingToken":' .. token
      .. ',"ts":' .. integer(now) .. '}')
  end
end

-- notify_holder: has the node of a holder know at once that its lock is gone.
local function notify_holder(record)
  if record[WAKE] ~= '' then
    redis.call('PUBLISH', record[WAKE], 'lost ' .. record[NUMBER])
  end
end

-- look: the record of the holder, or nil if the lock is not held by one of ours; what the lock's own key
-- holds; and true if a key that says so holds something else. A record whose lock has ended is removed
-- here, and the end told in the same step: so it is told once, whoever looks first. Before its time only
-- others can have taken it away. A lease that ends further in the future than it is long was granted
-- before the clock was set back: it gets its length from now, and so does the key's TTL, which follows
-- the clock too. A holder that lives renews it before that is over.
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
      -- First: a server without memory refuses HSET, but only while nothing is written.
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

-- first_waiter: who is to have the lock next, its wake channel and number; nil if nobody waits,
-- false if there are more dead before it than one call takes out. `mine` is alive: it asks.
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
        -- The clock was set back. A node that lives says so again within this time.
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

-- wake_next: tells the first waiter, and nobody else, that the lock is free. A queue that cannot be read
-- has nobody to tell, and must not fail what was done before.
local function wake_next()
  local readable, waiter, wake, number = pcall(first_waiter, '')
  if readable and waiter then
    redis.call('PUBLISH', wake, 'turn ' .. number)
  end
end

-- leave_queue: whether the waiter was in it. With the last one goes the record of the living.
local function leave_queue(waiter)
  local left = read('ZREM', KEYS[4], waiter) == 1
  if left and redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('DEL', KEYS[5])
  end
  return left
end
