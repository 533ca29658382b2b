-- Stage 1 of a commit: join reports into the records of some users. The same rule as protocol/record.py.
-- Safe to apply twice: a repeated call changes nothing, and answers the same states.
--
-- KEYS[i]  the progress hash of user i: videoId -> value, "rev" -> the user's revision, "trail" -> see below
-- ARGV[1]  completion threshold, in thousandths
-- ARGV[2]  name of the calling worker, so that it knows its own pushes
-- ARGV[3]  msgpack: for each key {subscribed, items}; an item {videoId, catalogue_ms, ops}; an op is a report
--          (an array, in the order of REPORT below) or a deletion (its instant, ms).
--          subscribed: 1 if the calling worker itself listens to this user
-- returns  msgpack: for each key {rev before, rev after, results}; a result {value, outcomes}, value "" where there
--          is no record; outcomes {op index from 0, code, …} tell of the ops whose code is not 0
--
-- A value is two msgpack objects, one behind the other: the rev, and the record as an array in the order of RECORD.

-- A trail tells of which video each of the newest revisions was, newest first, and neighbours of one video as one run:
-- "video,first revision;…". Who lacks a few changes is brought them without a look at all there is (changes.lua).
-- It is written when the learner goes from one video to another, not at each heartbeat.

local MAX_INTERVALS, MAX_SESSIONS, SETTLE_MS, ABSENT, MAX_TRAIL = 2048, 16, 10000, -1, 1600
local JOINED, DELETED, CAPPED, NOTHING_TO_DELETE, FAILED = 0, 1, 2, 3, 4

-- RECORD
local DELETED_AT, LAST_WATCHED, CLAIMED, PLAYED, DURATION, COMPLETED_AT = 1, 2, 3, 4, 5, 6
local POSITION, POSITION_AT, UNSETTLED, UNSETTLED_AT, SEEN, AGAIN, GUARDS = 7, 8, 9, 10, 11, 12, 13
-- REPORT
local R_SESSION, R_FIRST_SEQ, R_SEQ, R_FIRST_AT, R_AT, R_SEEN, R_AGAIN, R_PLAYED = 1, 2, 3, 4, 5, 6, 7, 8
local R_POSITION, R_POSITION_AT, R_SEEK, R_CLAIMED, R_DURATION = 9, 10, 11, 12, 13
-- GUARDS is flat, five to a session: name, seq, at, settle_ms, buried

local threshold, worker = tonumber(ARGV[1]), ARGV[2]
local max, min = math.max, math.min

local function union(a, b)
  if #a == 0 then return b end
  if #b == 0 then return a end
  local out, n, i, j = {}, 0, 1, 1
  while i <= #a or j <= #b do
    local from, to
    if j > #b or (i <= #a and a[i] <= b[j]) then
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
  local out, n, i, j = {}, 0, 1, 1
  while i <= #a and j <= #b do
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

-- a < b by bytes; Lua's own < on strings asks the locale
local function text_before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function older(at1, name1, at2, name2)
  if at1 ~= at2 then return at1 < at2 end
  return text_before(name1, name2)
end

local function find_guard(guards, session)
  for i = 1, #guards, 5 do
    if guards[i] == session then return i end
  end
end

-- The guards with one session's put in its place by age, the oldest dropped where there are too many.
local function with_guard(guards, skip, name, seq, at, settle, buried)
  local out, n, placed = {}, 0, false
  local function put(...)
    for i = 1, 5 do out[n + i] = select(i, ...) end
    n = n + 5
  end
  for i = 1, #guards, 5 do
    if i ~= skip then
      if not placed and older(at, name, guards[i + 2], guards[i]) then
        put(name, seq, at, settle, buried)
        placed = true
      end
      put(guards[i], guards[i + 1], guards[i + 2], guards[i + 3], guards[i + 4])
    end
  end
  if not placed then put(name, seq, at, settle, buried) end
  while n > 5 * MAX_SESSIONS do
    for _ = 1, 5 do table.remove(out, 1) end
    n = n - 5
  end
  return out
end

local function joined(r, p, news)
  local seen = union(r[SEEN], p[R_SEEN])
  if not news then return seen, r[AGAIN] end
  return seen, union(union(r[AGAIN], p[R_AGAIN]), intersection(r[SEEN], p[R_SEEN]))
end

-- What lies beyond the end of the video (nil where it is not known) goes when its room is needed.
local function join_seconds(r, p, news, video)
  local seen, again = joined(r, p, news)
  if video and max(#seen, #again) > 2 * MAX_INTERVALS then
    r[SEEN], r[AGAIN] = intersection(r[SEEN], video), intersection(r[AGAIN], video)
    seen, again = joined(r, p, news)
  end
  if #seen > 2 * MAX_INTERVALS then return true end
  r[SEEN] = seen
  if #again > 2 * MAX_INTERVALS then return true end
  r[AGAIN] = again
  return false
end

-- (at1, ms1) after (at2, ms2)
local function newer(at1, ms1, at2, ms2)
  return at1 > at2 or (at1 == at2 and ms1 > ms2)
end

local function join_position(r, p, settled)
  local ms, at = p[R_POSITION], p[R_POSITION_AT]
  if ms == ABSENT then return end
  if settled then
    if newer(at, ms, r[POSITION_AT], r[POSITION]) then r[POSITION], r[POSITION_AT] = ms, at end
  elseif newer(at, ms, r[UNSETTLED_AT], r[UNSETTLED]) then
    r[UNSETTLED], r[UNSETTLED_AT] = ms, at
  end
  if not newer(r[UNSETTLED_AT], r[UNSETTLED], r[POSITION_AT], r[POSITION]) then
    r[UNSETTLED], r[UNSETTLED_AT] = ABSENT, 0
  end
end

local function is_complete(r)
  local duration = r[DURATION]
  local watched = max(size(r[SEEN]), r[CLAIMED])
  if duration <= 0 then return false end
  watched = min(watched, math.floor(duration / 1000))
  if watched <= 0 then return false end
  return watched >= math.floor(duration / 1000) or watched * 1000000 >= threshold * duration
end

-- The report without what lies beyond the end of the video.
local function clip(p, video, catalogue)
  p[R_SEEN], p[R_AGAIN] = intersection(p[R_SEEN], video), intersection(p[R_AGAIN], video)
  p[R_POSITION] = min(p[R_POSITION], catalogue)
end

local function join(r, p, catalogue)
  local guards, name, seq, at = r[GUARDS], p[R_SESSION], p[R_SEQ], p[R_AT]
  local g = find_guard(guards, name)
  local again = g and seq <= guards[g + 1]
  if p[R_FIRST_AT] <= r[DELETED_AT] or (g and seq <= guards[g + 4]) then return DELETED end
  local video = catalogue > 0 and { 0, math.floor((catalogue + 499) / 1000) } or nil
  if video then clip(p, video, catalogue) end
  local news, settled = false, false
  if name ~= '' then
    local partial = g and not again and p[R_FIRST_SEQ] <= guards[g + 1]
    local forgotten = not g and #guards >= 5 * MAX_SESSIONS and older(at, name, guards[3], guards[1])
    news = not (again or partial or forgotten)
    if not forgotten then
      local settle = g and guards[g + 3] or 0
      if news then settle = p[R_SEEK] == 1 and SETTLE_MS or min(SETTLE_MS, settle + p[R_PLAYED]) end
      settled = settle == SETTLE_MS and not again
      if g then seq, at = max(guards[g + 1], seq), max(guards[g + 2], at) end
      r[GUARDS] = with_guard(guards, g, name, seq, at, settle, g and guards[g + 4] or 0)
    end
  end
  local capped = join_seconds(r, p, news, video)
  join_position(r, p, settled)
  if news then r[PLAYED] = r[PLAYED] + p[R_PLAYED] end
  r[CLAIMED] = max(r[CLAIMED], p[R_CLAIMED])
  r[LAST_WATCHED] = max(r[LAST_WATCHED], p[R_AT])
  r[DURATION] = catalogue > 0 and catalogue or max(r[DURATION], p[R_DURATION])
  if r[COMPLETED_AT] == 0 and is_complete(r) then r[COMPLETED_AT] = r[LAST_WATCHED] end
  return capped and CAPPED or JOINED
end

local function empty(deleted_at, guards)
  return { deleted_at, 0, 0, 0, 0, 0, ABSENT, 0, ABSENT, 0, {}, {}, guards }
end

-- Pure: the packed record after the ops, and what became of each. An error here is one damaged record's alone.
local function apply(before, catalogue, ops)
  local r, outcomes = before and cmsgpack.unpack(before) or empty(0, {}), {}
  for i, op in ipairs(ops) do
    local code
    if type(op) == 'table' then
      code = join(r, op, catalogue)
    elseif op <= r[DELETED_AT] then
      code = JOINED
    elseif r[LAST_WATCHED] == 0 then
      code = NOTHING_TO_DELETE
    else
      local guards = r[GUARDS]
      for g = 1, #guards, 5 do guards[g + 4] = guards[g + 1] end
      code, r = JOINED, empty(max(op, r[LAST_WATCHED]), guards)
    end
    if code ~= JOINED then
      outcomes[#outcomes + 1] = i - 1
      outcomes[#outcomes + 1] = code
    end
  end
  if r[LAST_WATCHED] == 0 and r[DELETED_AT] == 0 then return nil, outcomes end
  return cmsgpack.pack(r), outcomes
end

-- The revision, the trail, a value: one call for what nearly every group needs. The revision is nil where the key is
-- not ours: then its records fail, and nobody else's with them.
local function read(key, video)
  local values = redis.pcall('HMGET', key, 'rev', 'trail', video)
  if values.err then return nil, '', false end
  return tonumber(values[1] or 0), values[2] or '', values[3]
end

-- The trail after a revision of this video.
local function follow(trail, video, rev)
  if string.sub(trail, 1, #video + 1) == video .. ',' then return trail end
  trail = video .. ',' .. rev .. ';' .. trail
  return #trail > MAX_TRAIL and string.match(string.sub(trail, 1, MAX_TRAIL), '^.*;') or trail
end

local answer = {}
for k, group in ipairs(cmsgpack.unpack(ARGV[3])) do
  local key, subscribed, items = KEYS[k], group[1], group[2]
  local before, old_trail, first = read(key, items[1][1])
  local sound, trail = before ~= nil, old_trail
  before = before or 0
  local rev, results, push = before, {}, {}
  for n, item in ipairs(items) do
    local video = item[1]
    local value, body = sound and (n == 1 and first or n > 1 and redis.call('HGET', key, video)), nil
    local ok, after, outcomes = pcall(function()
      if not sound then error('damaged') end
      if value then body = string.sub(value, cmsgpack.unpack_one(value) + 1) end
      return apply(body, item[2], item[3])
    end)
    if not ok then
      value, outcomes = '', {}
      for i = 1, #item[3] do
        outcomes[#outcomes + 1] = i - 1
        outcomes[#outcomes + 1] = FAILED
      end
    elseif after and after ~= body then
      rev = rev + 1
      value = cmsgpack.pack(rev) .. after
      -- One item may follow another of the same video: each must read what the one before it wrote.
      redis.call('HSET', key, video, value)
      push[#push + 1] = { video, value }
      trail = follow(trail, video, rev)
    end
    results[n] = { value or '', outcomes }
  end
  if rev > before then
    if trail == old_trail then
      redis.call('HSET', key, 'rev', rev)
    else
      redis.call('HSET', key, 'rev', rev, 'trail', trail)
    end
    local channel = string.gsub(key, ':progress:', ':push:', 1)
    if redis.call('PUBSUB', 'NUMSUB', channel)[2] > subscribed then
      redis.call('PUBLISH', channel, cmsgpack.pack({ worker, before, rev, push }))
    end
  end
  answer[k] = { before, rev, results }
end
return cmsgpack.pack(answer)
