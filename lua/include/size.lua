-- size: the number of members of a key, from the command that counts them; `otherwise` if the key has
-- another type, so that one foreign key does not fail the script for the other keys.
local function size(command, key, otherwise)
  local n = redis.pcall(command, key)
  return type(n) == 'number' and n or otherwise
end
