-- The guards of a record (`Guard` in protocol/record.py) in one flat array, GUARD_FIELDS entries for each session, oldest
-- first. A guard is addressed by the index of its first entry, the session's name. GUARD stands for the names of all of its
-- fields, in their order (storage/scripts.py).

-- The index of the session's guard, nil if it has none.
local function find_guard(guards, session)
  local newest = #guards - GUARD_FIELDS + 1
  if guards[newest] == session then return newest end -- the common case
  for i = 1, newest - GUARD_FIELDS, GUARD_FIELDS do
    if guards[i] == session then return i end
  end
end

-- Return the guards with this one inserted by age, in place of the one at `replaced` (nil: of none), and without the
-- oldest one if there are now more than MAX_SESSIONS.
local function put_guard(guards, replaced, GUARD)
  if replaced and replaced + GUARD_FIELDS > #guards then -- the common case: the newest one, which cannot become older
    guards[replaced + GUARD_SEQ], guards[replaced + GUARD_AT], guards[replaced + GUARD_SETTLE_MS] = seq, at, settle_ms
    return guards
  end
  local guard, out, n, inserted = { GUARD }, {}, 0, false
  local function append(from, first)
    for i = first, first + GUARD_FIELDS - 1 do
      n = n + 1
      out[n] = from[i]
    end
  end
  for i = 1, #guards, GUARD_FIELDS do
    if i ~= replaced then
      if not inserted and older(at, session, guards[i + GUARD_AT], guards[i]) then
        append(guard, 1)
        inserted = true
      end
      append(guards, i)
    end
  end
  if not inserted then append(guard, 1) end
  local surplus = n - GUARD_FIELDS * MAX_SESSIONS
  return surplus > 0 and { unpack(out, surplus + 1, n) } or out
end
