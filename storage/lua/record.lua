-- The rule by which reports join into a record: the same functions in the same order as protocol/record.py, without the
-- rules for readers. tests/property holds both to the same bytes.
--
-- A record is an array in the order of its fields, as it is stored; the functions change it in place. A report is not a
-- table but the arguments of `join`: a table for each would cost more than everything else here.

local CHECK_INTERVAL = 8 -- seqs of a session that continues, after which its record is checked again

local floor, max, min = math.floor, math.max, math.min
local is_complete, clip, join_seconds, joined, join_position -- defined below `join`, as in Python

-- Whether the record at hand was read from the store and has not been checked yet.
local unchecked = false

local function exists(r)
  return r[LAST_WATCHED] > 0
end

local function counts(r)
  return r[LAST_WATCHED] > 0 or r[DELETED_AT] > 0
end

local function watched(r)
  local seconds, duration_ms = size(r[SEEN]), r[DURATION_MS]
  if r[CLAIMED] > seconds then seconds = r[CLAIMED] end
  if duration_ms > 0 and seconds * 1000 > duration_ms then seconds = floor(duration_ms / 1000) end
  return seconds
end

local function clamp_instants(r, latest, before)
  local guards = r[GUARDS]
  if r[LAST_WATCHED] <= latest and r[DELETED_AT] <= latest and r[COMPLETED_AT] <= latest and r[POSITION_AT] <= latest
    and r[UNSETTLED_AT] <= latest and (guards[#guards - GUARD_FIELDS + 1 + GUARD_AT] or 0) <= latest then
    return
  end
  if r[DELETED_AT] > latest then r[DELETED_AT] = before - 1 end
  if r[LAST_WATCHED] > latest then r[LAST_WATCHED] = max(before, r[DELETED_AT] + 1) end
  if r[COMPLETED_AT] > latest then r[COMPLETED_AT] = before end
  if r[POSITION_AT] > latest then r[POSITION_AT] = r[UNSETTLED_MS] == ABSENT and before or before - 1 end
  if r[UNSETTLED_AT] > latest then r[UNSETTLED_AT] = before end
  local sorted = {}
  for g = 1, #guards, GUARD_FIELDS do
    local GUARD = unpack(guards, g, g + GUARD_FIELDS - 1)
    if at > latest then at = before end
    sorted = put_guard(sorted, nil, GUARD)
  end
  r[GUARDS] = sorted
end

-- REPORT stands for the names of a report's fields, in their order (storage/scripts.py). `next_at` is where the report ends
-- in the argument that it was read from; it is returned beside the outcome.
local function join(r, catalogue_ms, threshold_permille, room, next_at, REPORT)
  if not room and not counts(r) then return next_at, TOO_MANY_VIDEOS end
  local guards = r[GUARDS]
  local g = find_guard(guards, session)
  -- In the common case the newest session continues. Its record was sound when it began, and is checked at intervals.
  if unchecked and (not g or g + GUARD_FIELDS <= #guards or seq % CHECK_INTERVAL == 0) then
    check(r)
    unchecked = false
  end
  local is_repeat = g and seq <= guards[g + GUARD_SEQ]
  if first_at <= r[DELETED_AT] or (g and seq <= guards[g + GUARD_BURIED]) then return next_at, DELETED end
  local video_end
  if catalogue_ms > 0 then
    video_end = cell(catalogue_ms)
    seen, again, position_ms = clip(seen, video_end), clip(again, video_end), min(position_ms, catalogue_ms)
  end
  local news, settled = false, false
  if session ~= '' then
    local partial = g and not is_repeat and first_seq <= guards[g + GUARD_SEQ]
    local forgotten = not g and #guards >= GUARD_FIELDS * MAX_SESSIONS
      and older(at, session, guards[1 + GUARD_AT], guards[1])
    news = not (is_repeat or partial or forgotten)
    if not forgotten then
      local seq, at, settle_ms, buried = seq, at, 0, 0
      if g then
        settle_ms, buried = guards[g + GUARD_SETTLE_MS], guards[g + GUARD_BURIED]
        if guards[g + GUARD_SEQ] > seq then seq = guards[g + GUARD_SEQ] end
        if guards[g + GUARD_AT] > at then at = guards[g + GUARD_AT] end
      end
      if news then
        settle_ms = settle_ms + played_ms
        if seek or settle_ms > SETTLE_MS then settle_ms = SETTLE_MS end
      end
      settled = settle_ms == SETTLE_MS and not is_repeat
      r[GUARDS] = put_guard(guards, g, GUARD)
    end
  end
  local capped = join_seconds(r, seen, again, news, video_end)
  join_position(r, position_ms, position_at, settled)
  if news then r[PLAYED_MS] = r[PLAYED_MS] + played_ms end
  if claimed > r[CLAIMED] then r[CLAIMED] = claimed end
  if at > r[LAST_WATCHED] then r[LAST_WATCHED] = at end
  if catalogue_ms > 0 then
    r[DURATION_MS] = catalogue_ms
  elseif duration_ms > r[DURATION_MS] then
    r[DURATION_MS] = duration_ms
  end
  if r[COMPLETED_AT] == 0 and is_complete(watched(r), r[DURATION_MS], threshold_permille) then
    r[COMPLETED_AT] = r[LAST_WATCHED]
  end
  return next_at, capped and CAPPED or JOINED
end

local function delete(r, now)
  if now <= r[DELETED_AT] then return r, JOINED end
  if not exists(r) then return r, NOTHING_TO_DELETE end
  local tombstone, guards = { EMPTY_RECORD }, r[GUARDS]
  for g = 1, #guards, GUARD_FIELDS do guards[g + GUARD_BURIED] = guards[g + GUARD_SEQ] end
  tombstone[DELETED_AT], tombstone[GUARDS] = max(now, r[LAST_WATCHED]), guards
  return tombstone, JOINED
end

function is_complete(watched_s, duration_ms, threshold_permille)
  if duration_ms <= 0 or watched_s <= 0 then return false end
  return (watched_s + 1) * 1000 > duration_ms or watched_s * 1000000 >= threshold_permille * duration_ms
end

-- One set of seconds of a report, where Python has the whole report; join clips the position itself.
function clip(seconds, video_end)
  if (seconds[#seconds] or 0) > video_end then return intersection(seconds, { 0, video_end }) end
  return seconds
end

-- video_end: nil if the catalogue has no duration.
function join_seconds(r, seen, again, news, video_end)
  local had = r[SEEN]
  local n, from = #had, seen[1]
  -- The common case, in place: one interval that starts where everything seen before ends, or later.
  if #seen == 2 and #again == 0 and n < 2 * MAX_INTERVALS and (n == 0 or from >= had[n]) then
    if from == had[n] then
      had[n] = seen[2]
    else
      had[n + 1], had[n + 2] = from, seen[2]
    end
    return false
  end
  local all, twice = joined(r, seen, again, news)
  if video_end and max(#all, #twice) > 2 * MAX_INTERVALS then
    local video = { 0, video_end }
    r[SEEN], r[AGAIN] = intersection(r[SEEN], video), intersection(r[AGAIN], video)
    all, twice = joined(r, seen, again, news)
  end
  if #all > 2 * MAX_INTERVALS then return true end
  r[SEEN] = all
  if #twice > 2 * MAX_INTERVALS then return true end
  r[AGAIN] = twice
  return false
end

function joined(r, seen, again, news)
  local all = union(r[SEEN], seen)
  if not news then return all, r[AGAIN] end
  return all, union(union(r[AGAIN], again), intersection(r[SEEN], seen))
end

function join_position(r, position_ms, position_at, settled)
  if position_ms == ABSENT then return end
  if settled then
    if newer(position_at, position_ms, r[POSITION_AT], r[POSITION_MS]) then
      r[POSITION_MS], r[POSITION_AT] = position_ms, position_at
    end
  elseif newer(position_at, position_ms, r[UNSETTLED_AT], r[UNSETTLED_MS]) then
    r[UNSETTLED_MS], r[UNSETTLED_AT] = position_ms, position_at
  end
  if not newer(r[UNSETTLED_AT], r[UNSETTLED_MS], r[POSITION_AT], r[POSITION_MS]) then
    r[UNSETTLED_MS], r[UNSETTLED_AT] = ABSENT, 0
  end
end
