-- Reads stored records and checks them, as storage/values/packing.py does. A damaged record raises an error.
--
-- A stored value is two msgpack objects, one after the other: the revision, and the record as an array of its fields.

local byte, max, next, type, unpack_limit = string.byte, math.max, next, type, cmsgpack.unpack_limit

local function elements(next_at, ...)
  if next_at ~= -1 then error('damaged') end -- something follows the array
  return { ... }
end

-- The record, its revision, and the length of the revision in bytes. `check` looks at what the record holds.
local function unpack_record(value)
  local rev_length, rev = unpack_limit(value, 1)
  if byte(value, rev_length + 1) ~= ARRAY + RECORD_FIELDS or #value > MAX_VALUE or rev % 1 ~= 0
    or not (rev >= 0 and rev <= MAX_SEQ) then
    error('damaged')
  end
  return elements(unpack_limit(value, RECORD_FIELDS, rev_length + 1)), rev, rev_length
end

local function check(r)
  for i = 1, SEEN - 1 do
    local n = r[i]
    if not (n >= 0 and n <= MAX_SEQ and n % 1 == 0) and (n ~= ABSENT or (i ~= POSITION_MS and i ~= UNSETTLED_MS)) then
      error('damaged')
    end
  end
  if max(r[DELETED_AT], r[LAST_WATCHED], r[COMPLETED_AT]) > MAX_INSTANT then error('damaged') end
  check_seconds(r[SEEN])
  check_seconds(r[AGAIN])
  local guards = r[GUARDS]
  if #guards % GUARD_FIELDS ~= 0 or #guards > GUARD_FIELDS * MAX_SESSIONS or (#guards == 0 and next(guards)) then
    error('damaged')
  end
  for g = 1, #guards, GUARD_FIELDS do
    if type(guards[g]) ~= 'string' then error('damaged') end
    for i = g + 1, g + GUARD_FIELDS - 1 do check_whole(guards[i], MAX_SEQ) end
  end
end
