-- Sets of whole seconds, kept as sorted, disjoint, half-open intervals in one flat array: { start, end, start, end, … }.
-- The same functions in the same order as protocol/intervals.py. None of them changes its arguments.

local floor, max, min = math.floor, math.max, math.min

local function cell(ms)
  return floor((ms + 499) / 1000)
end

local function union(a, b)
  local length_a, length_b = #a, #b
  if length_a == 0 then return b end
  if length_b == 0 then return a end
  local out, n, i, j = {}, 0, 1, 1
  while i <= length_a or j <= length_b do
    local from, to
    if j > length_b or (i <= length_a and a[i] <= b[j]) then
      from, to, i = a[i], a[i + 1], i + 2
    else
      from, to, j = b[j], b[j + 1], j + 2
    end
    if n > 0 and from <= out[n] then
      if to > out[n] then out[n] = to end
    else
      out[n + 1], out[n + 2], n = from, to, n + 2
    end
  end
  return out
end

local function intersection(a, b)
  local length_a, length_b = #a, #b
  local out, n, i, j = {}, 0, 1, 1
  while i <= length_a and j <= length_b do
    local from, to = max(a[i], b[j]), min(a[i + 1], b[j + 1])
    if from < to then out[n + 1], out[n + 2], n = from, to, n + 2 end
    if a[i + 1] < b[j + 1] then i = i + 2 else j = j + 2 end
  end
  return out
end

local function size(a)
  local total = 0
  for i = 1, #a, 2 do total = total + a[i + 1] - a[i] end
  return total
end
