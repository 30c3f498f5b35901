-- @include integer
-- In last_seen and in the due index, the score of a connection with an owner (owner.lua) is OWNED plus
-- the end of its TTL. Times of heartbeats are far below OWNED.
local OWNED = 2 ^ 51

-- owned_score: a time as the score of a connection with an owner.
local function owned_score(time)
  return integer(OWNED + time)
end
