-- size: how many members a key has, by the command that counts them; `otherwise` if it is of another type,
-- so that one key that is not ours does not keep a script from the others.
local function size(command, key, otherwise)
  local n = redis.pcall(command, key)
  return type(n) == 'number' and n or otherwise
end
