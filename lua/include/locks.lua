-- Why a lock does not allow a change.
local NOT_HELD = 0
local HELD_BY_OTHER = 1
local OUTRUN = 2
local UNREADABLE = 3

-- Tokens are whole numbers in decimal digits. Comparing them as texts is exact for any length.
local function older(a, b)
  return #a < #b or #a == #b and a < b
end

local function refusal(lock_key, token_key, actor, token)
  local owner = redis.pcall('GET', lock_key)
  if type(owner) == 'table' then
    return UNREADABLE, ''
  elseif not owner then
    return NOT_HELD, ''
  elseif actor == '' or owner ~= actor then
    return HELD_BY_OTHER, ''
  elseif token ~= '' then
    local newest = redis.pcall('GET', token_key)
    if type(newest) == 'table' then
      return UNREADABLE, ''
    elseif newest and older(token, newest) then
      return OUTRUN, newest
    end
  end
end

-- refusals: the locks that do not allow the changes, with three values for each, as the commit
-- scripts return them. The keys of the locks (key, key of its token) are all KEYS after the first
-- two. Their arguments (actor, token) begin at ARGV[first].
local function refusals(first)
  local refused = {}
  for i = 0, (#KEYS - 2) / 2 - 1 do
    local why, newest = refusal(KEYS[3 + 2 * i], KEYS[4 + 2 * i], ARGV[first + 2 * i],
      ARGV[first + 1 + 2 * i])
    if why then
      refused[#refused + 1] = i
      refused[#refused + 1] = why
      refused[#refused + 1] = newest
    end
  end
  return refused
end
