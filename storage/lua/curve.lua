-- Curves as difference arrays: how many viewers each second has, kept as steps, so that an interval costs two steps
-- however long it is. storage/read/curves.py reads them: field "s<second>" for viewers, "a<second>" for replays.

local format = string.format

-- Add `by` viewers of the set to the steps, from the set's element `first` on.
local function add_steps(steps, set, first, by)
  if first % 2 == 0 then by = -by end -- an interval ends here
  for i = first, #set do
    local second = set[i]
    steps[second] = (steps[second] or 0) + by
    by = -by
  end
end

-- Append the names of the curve's fields, and by how much they change, to two arrays; returns both.
-- name: the format of a field's name.
local function append_fields(steps, name, fields, changes)
  local n = #fields
  for second, by in pairs(steps) do
    if by ~= 0 then
      n = n + 1
      fields[n], changes[n] = format(name, second), by
    end
  end
  return fields, changes
end
