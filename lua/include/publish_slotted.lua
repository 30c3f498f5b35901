-- @include may_publish
-- Events on layout slotted. `at.events`: the channel of the room; `at.slot_events`: that of the slot.
-- The last argument is the command that publishes: PUBLISH, or SPUBLISH, which sends events of all rooms to
-- the channel of the slot as well.
local PUBLISH = ARGV[#ARGV]

-- check_publish_acl: fails before anything is written unless the user may publish the room's events.
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
