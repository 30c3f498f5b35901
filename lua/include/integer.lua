-- integer(x): a number as decimal digits. Lua's own conversion would write 1.7e+12.
local function integer(x)
  return string.format('%.0f', tonumber(x) or 0)
end
