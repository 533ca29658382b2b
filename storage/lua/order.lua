-- Orders that Python's strings and tuples have by themselves.

local byte, min = string.byte, math.min

-- Whether a < b by their bytes; Lua's own < on strings depends on the locale.
local function text_before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- Whether (at, session) < (other_at, other_session).
local function older(at, session, other_at, other_session)
  if at ~= other_at then return at < other_at end
  return text_before(session, other_session)
end

-- Whether (at, ms) > (other_at, other_ms).
local function newer(at, ms, other_at, other_ms)
  return at > other_at or (at == other_at and ms > other_ms)
end
