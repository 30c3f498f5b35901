-- @include publish_slotted
-- @include integer
-- Layout slotted: a script can only use one slot. Writes in other slots are left as entries in the
-- room's outbox (`unsettled`), which the node applies.
-- A room's keys (`at`): conns, members, last_seen, conn_meta, events, outbox, slot_events.

-- user_left: the index of the user's rooms is in another slot.
local function user_left()
end

-- connection_left: called after a connection was removed from the room's own indices. `known`: how
-- many of them had it.
local function connection_left(at, _, member, epoch, known)
  if known > 0 then
    redis.call('HSET', at.outbox, integer(epoch) .. ':' .. member.conn, '-' .. member.user)
  end
end
