-- @include may_publish
-- Events on the layout v1. `at.events`: the channel of the room.

-- check_publish_acl: fails, before anything is written, if the user has no permission to publish the
-- room's events.
local function check_publish_acl(at)
  may_publish(at.events)
end

-- publish: sends an event to the subscribers of the room and of all rooms.
local function publish(at, text)
  redis.call('PUBLISH', at.events, text)
end
