-- add_member: adds a member to a set that does not belong to the room. A key of another type is left
-- unchanged. Returns how many members were added.
local function add_member(key, member)
  local added = redis.pcall('SADD', key, member)
  return type(added) == 'number' and added or 0
end
