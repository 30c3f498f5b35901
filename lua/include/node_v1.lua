-- @include node
-- Layout v1: the scripts of connections use the keys of their node, the last two of KEYS.
local function owner_is_dead()
  return not lives(KEYS[#KEYS - 1])
end

local function add_to_owner(room)
  redis.call('HSET', KEYS[#KEYS], ARGV[1], ARGV[14] .. ':' .. room)
end
