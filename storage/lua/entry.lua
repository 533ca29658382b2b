-- Reads entries of an audience, as storage/values/audience.py does.
--
-- An entry is two msgpack objects, one after the other: the revision of the record it was made of, and
-- { watched s, completed 0/1, seen, again }.

local byte, unpack_limit = string.byte, cmsgpack.unpack_limit

-- The entry without its revision: watched, completed, seen, again. Raises an error if the entry is damaged: such an entry
-- adds nothing to a sum, and takes nothing out of it.
local function unpack_entry(entry)
  if #entry > MAX_VALUE then error('damaged') end
  local rev_length, rev = unpack_limit(entry, 1)
  if byte(entry, rev_length + 1) ~= ARRAY + 4 then error('damaged') end
  local next_at, watched, completed, seen, again = unpack_limit(entry, 4, rev_length + 1)
  if next_at ~= -1 then error('damaged') end -- something follows the array
  check_whole(rev, MAX_SEQ)
  check_whole(watched, MAX_MEDIA_S)
  check_whole(completed, 1)
  check_seconds(seen)
  check_seconds(again)
  return watched, completed, seen, again
end
