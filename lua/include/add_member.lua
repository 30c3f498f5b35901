-- add_member: adds a member to a set that is not the room's own; one of another type is left as it is.
-- Returns how many were added.
local function add_member(key, member)
  local added = redis.pcall('SADD', key, member)
  return type(added) == 'number' and added or 0
end
