-- Checks of stored data, as storage/values/packing.py makes them: damaged data raises an error.

local next = next
local ARRAY = 0x90 -- msgpack: an array of up to 15 elements starts with this byte plus its length

-- Raise an error unless `n` is a whole number from 0 to `most`. The comparison itself raises one if `n` is not a number.
local function check_whole(n, most)
  if not (n >= 0 and n <= most and n % 1 == 0) then error('damaged') end
end

local function check_seconds(set)
  local n, last = #set, -1
  if n % 2 ~= 0 or n > 2 * MAX_INTERVALS or (n == 0 and next(set)) then error('damaged') end
  for i = 1, n do
    local second = set[i]
    if not (second > last and second % 1 == 0) then error('damaged') end
    last = second
  end
  if last > MAX_MEDIA_S then error('damaged') end
end
