-- @include may_publish
-- layout: how data are spread over keys; the last argument of every script that has a use for it. On
-- 'slotted' and 'sharded' a script sees one slot: in place of keys of other slots it gets the room's
-- `unsettled`, and what would be written there is noted in it for the node to carry out. 'sharded':
-- events are published in their slot; the key in place of the due index is the slot's channel.
local layout = ARGV[#ARGV]

-- check_publish_acl: fails before anything is written unless the user may publish what `publish` is to.
local function check_publish_acl(room_channel, slot_channel)
  if layout == 'sharded' then
    may_publish(room_channel, 'SPUBLISH')
    may_publish(slot_channel, 'SPUBLISH')
  else
    may_publish(room_channel)
  end
end

-- publish: sends an event to the followers of the room, and to those of all rooms.
local function publish(room_channel, slot_channel, text)
  if layout == 'sharded' then
    redis.call('SPUBLISH', room_channel, text)
    redis.call('SPUBLISH', slot_channel, text)
  else
    redis.call('PUBLISH', room_channel, text)
  end
end
