-- Layout slotted: the keys of the node are in another slot. node_claim.lua has checked the node, and has
-- added the connection to those of the node.
local function owner_is_dead()
  return false
end

local function add_to_owner()
end
