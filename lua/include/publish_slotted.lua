-- @include may_publish
-- Events on the layout slotted. `at.events`: the channel of the room; `at.slot_events`: that of the
-- slot. The last argument is the publish command: PUBLISH or SPUBLISH. With SPUBLISH, events of all
-- rooms are also sent to the channel of the slot.
local PUBLISH = ARGV[#ARGV]

-- check_publish_acl: fails, before anything is written, if the user has no permission to publish the
-- room's events.
local function check_publish_acl(at)
  may_publish(at.events, PUBLISH)
  if PUBLISH == 'SPUBLISH' then
    may_publish(at.slot_events, PUBLISH)
  end
end

-- publish: sends an event to the subscribers of the room and of all rooms.
local function publish(at, text)
  redis.call(PUBLISH, at.events, text)
  if PUBLISH == 'SPUBLISH' then
    redis.call(PUBLISH, at.slot_events, text)
  end
end
