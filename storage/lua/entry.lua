-- In front of the scripts that sum entries of an audience (storage/scripts.py). Raises an error where `unpack_entry` of
-- storage/values/audience.py would not take one: what is no entry adds nothing to a sum, and takes nothing out of it.

local function check_whole(n, most)
  if type(n) ~= 'number' or not (n >= 0 and n <= most and n % 1 == 0) then error('damaged') end
end

local function check_seconds(set)
  if type(set) ~= 'table' or #set % 2 ~= 0 or #set > 4096 then error('damaged') end
  for i = 1, #set do
    check_whole(set[i], 172800)
    if i > 1 and set[i] <= set[i - 1] then error('damaged') end
  end
end

local function read_entry(entry)
  if #entry > 65536 then error('damaged') end
  local at, rev = cmsgpack.unpack_limit(entry, 1)
  if string.byte(entry, at + 1) ~= 0x94 then error('damaged') end
  local behind, watched, completed, seen, again = cmsgpack.unpack_limit(entry, 4, at + 1)
  if behind ~= -1 then error('damaged') end
  check_whole(rev, 2 ^ 53 - 1)
  check_whole(watched, 172800)
  check_whole(completed, 1)
  check_seconds(seen)
  check_seconds(again)
  return watched, completed, seen, again
end

