-- usable_epoch: a stored epoch as a number whose successor a join can use. 0 for one that is not a
-- whole number, or that is 2^53 - 1 or more: its successor would not be exact in Lua and JavaScript,
-- and every heartbeat with it would be refused. Such an epoch is corrupt, so joins ignore it.
local function usable_epoch(epoch)
  epoch = tonumber(epoch)
  return epoch and epoch >= 0 and epoch < 2 ^ 53 - 1 and math.floor(epoch) or 0
end
