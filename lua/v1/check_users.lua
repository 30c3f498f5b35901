-- check_users: finds rooms with a user who is not a member, or whose indices lack the room or one of
-- its connections.
--
-- KEYS[1..] – for each room: prs:{room}:members, then for each user prs:user:<userId>:conns and
--             prs:user:<userId>:rooms
-- ARGV[1..] – for each room: roomId, number of users, then for each user: userId, number of
--             connections, and their connIds
--
-- Returns the indices (0-based) of those rooms. The caller bounds the number of users.
--
-- Races: nothing is written. repair.lua reads the rooms again.
local call = redis.pcall
local key, arg, room = 0, 1, 0
local differ = {}

-- has: whether a set has a member. A key of another type has none.
local function has(set, member)
  return call('SISMEMBER', set, member) == 1
end

while ARGV[arg] do
  local id, users = ARGV[arg], tonumber(ARGV[arg + 1])
  local members = KEYS[key + 1]
  local agrees = true
  key, arg = key + 1, arg + 2
  for _ = 1, users do
    local user, conns = ARGV[arg], tonumber(ARGV[arg + 1])
    agrees = agrees and has(members, user) and has(KEYS[key + 2], id)
    for i = arg + 2, arg + 1 + conns do
      agrees = agrees and has(KEYS[key + 1], ARGV[i])
    end
    key, arg = key + 2, arg + 2 + conns
  end
  if not agrees then
    differ[#differ + 1] = room
  end
  room = room + 1
end
return differ
