-- Stage 1 of a commit: join reports into the records of some users. The same rule as protocol/record.py.
-- Safe to apply twice: a repeated call changes nothing, and answers the same states.
--
-- KEYS[i]  the progress hash of user i: videoId -> value, "rev" -> the user's revision, "trail" -> see below
-- ARGV[1]  completion threshold, in thousandths
-- ARGV[2]  name of the calling worker, so that it knows its own pushes
-- ARGV[3]  msgpack arrays, one behind the other: for each record a head {i, subscribed, videoId, catalogue_ms, wanted,
--          number of ops}, and its ops; a user's records in a row, the users in the order of KEYS. An op is a Report (its
--          fields in order) or a deletion ({its instant, ms}).
--          subscribed: 1 if the calling worker itself listens to this user    wanted: 1 if it wants the value
-- ARGV[4]  every new revision is higher than this; a record of this or less gets one (storage/guarantees/epoch.py)
-- ARGV[5]  ms since 1970: a stored instant after this was made by a clock that was wrong
-- ARGV[6]  ms since 1970: what such an instant becomes (`believed` in protocol/record.py)
-- ARGV[7]  records that a user may have, tombstones too; a report that would begin one more is not joined
-- ARGV[8]  "", or msgpack of the videoIds of a sync: then all in ARGV[3] is of one user, the sync's records come first,
--          and its items (`seq` IN_SYNC, no session) are joined only if all of its new records find room
-- returns  msgpack {revs before, revs after, states, outcomes, values}: of each user, of each user, of each record what
--          videos.lua takes ("" where there is no record), and two flat lists: {record from 0, op from 0, code, …} of
--          the ops whose code is not 0, {record from 0, value, …} of the records wanted, and of those with such ops
--
-- A value is two msgpack objects, one behind the other: the rev, and the record as an array in the order of RECORD.
--
-- This runs for every record of every flush, and what it costs is mostly tables and calls: so arrays are read without
-- a table for each, and what a player that just plays on sends takes the short ways marked "nearly always".

-- A trail tells of which video each of the newest revisions was, newest first, and neighbours of one video as one run:
-- "video,first revision;…". Who lacks a few changes is brought them without a look at all there is (changes.lua).
-- It is written when the learner goes from one video to another, not at each heartbeat.

local MAX_INTERVALS, MAX_SESSIONS, SETTLE_MS, ABSENT, MAX_TRAIL = 2048, 16, 10000, -1, 1600
local MAX_WHOLE, MAX_INSTANT, MAX_SECOND, MAX_VALUE = 2 ^ 53 - 1, 253402300799999, 172800, 65536
local MAX_REV = 2 ^ 53 - 2 ^ 32 -- and room for as many again
local CHECKED_EACH = 8 -- seqs of a session that goes on
local JOINED, DELETED, CAPPED, NOTHING_TO_DELETE, FAILED, TOO_MANY_VIDEOS = 0, 1, 2, 3, 4, 5
local IN_SYNC = 1
local MAX_PUSH, MAX_PUSH_BYTES = 100, 65536

-- RECORD
local DELETED_AT, LAST_WATCHED, CLAIMED, PLAYED, DURATION, COMPLETED_AT = 1, 2, 3, 4, 5, 6
local POSITION, POSITION_AT, UNSETTLED, UNSETTLED_AT, SEEN, AGAIN, GUARDS = 7, 8, 9, 10, 11, 12, 13
local RECORD, REPORT, DELETION = 13, 14, 1 -- how long these arrays are
local COMMA = 0x2c
local ARRAY = 0x90 -- msgpack: with this plus its length begins an array of up to 15
-- GUARDS is flat, five to a session: name, seq, at, settle_ms, buried

local threshold, worker, text, lowest = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local latest, before = tonumber(ARGV[5]), tonumber(ARGV[6])
local max_videos, synced = tonumber(ARGV[7]), ARGV[8]
-- Of the record at hand: whether it may begin. Of the sync: whether its new records find room.
local has_room, sync_fits, unchecked = true, true, false
local max, min, floor, byte, sub = math.max, math.min, math.floor, string.byte, string.sub
local pack, unpack_limit, call = cmsgpack.pack, cmsgpack.unpack_limit, redis.call
local next, pcall = next, pcall

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

local function cell(ms)
  return floor((ms + 499) / 1000)
end

local function size(a)
  local total = 0
  for i = 1, #a, 2 do total = total + a[i + 1] - a[i] end
  return total
end

-- a < b by bytes; Lua's own < on strings asks the locale
local function text_before(a, b)
  for i = 1, min(#a, #b) do
    local x, y = byte(a, i), byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function older(at1, name1, at2, name2)
  if at1 ~= at2 then return at1 < at2 end
  return text_before(name1, name2)
end

local function find_guard(guards, session)
  local newest = #guards - 4
  if guards[newest] == session then return newest end -- nearly always
  for i = 1, newest - 5, 5 do
    if guards[i] == session then return i end
  end
end

-- The guards with one session's put in its place by age, the oldest dropped where there are too many.
local function with_guard(guards, skip, name, seq, at, settle, buried)
  if skip and skip + 4 == #guards then -- nearly always: the newest, and its `at` has not become less
    guards[skip + 1], guards[skip + 2], guards[skip + 3] = seq, at, settle
    return guards
  end
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

-- A record without instants after `latest`; nearly always it has none.
local function believe(r)
  local guards = r[GUARDS]
  if r[LAST_WATCHED] <= latest and r[DELETED_AT] <= latest and r[COMPLETED_AT] <= latest and r[POSITION_AT] <= latest
    and r[UNSETTLED_AT] <= latest and (guards[#guards - 2] or 0) <= latest then
    return
  end
  if r[DELETED_AT] > latest then r[DELETED_AT] = before - 1 end
  if r[LAST_WATCHED] > latest then r[LAST_WATCHED] = max(before, r[DELETED_AT] + 1) end
  if r[COMPLETED_AT] > latest then r[COMPLETED_AT] = before end
  if r[POSITION_AT] > latest then r[POSITION_AT] = r[UNSETTLED] == ABSENT and before or before - 1 end
  if r[UNSETTLED_AT] > latest then r[UNSETTLED_AT] = before end
  local sorted = {}
  for g = 1, #guards, 5 do
    local at = guards[g + 2] > latest and before or guards[g + 2]
    sorted = with_guard(sorted, nil, guards[g], guards[g + 1], at, guards[g + 3], guards[g + 4])
  end
  r[GUARDS] = sorted
end

local function joined(r, seen, again, news)
  local all = union(r[SEEN], seen)
  if not news then return all, r[AGAIN] end
  return all, union(union(r[AGAIN], again), intersection(r[SEEN], seen))
end

-- One stretch that begins where all that was seen before ends, or later, nearly always: put there, in place. Else false.
local function append_seconds(before, seen, again)
  local n, from = #before, seen[1]
  if #seen ~= 2 or #again > 0 or n >= 2 * MAX_INTERVALS or (n > 0 and from < before[n]) then return false end
  if n > 0 and from == before[n] then
    before[n] = seen[2]
  else
    before[n + 1], before[n + 2] = from, seen[2]
  end
  return true
end

-- What lies beyond the end of the video, where that is known, goes when its room is needed.
local function join_seconds(r, seen, again, news, catalogue)
  if append_seconds(r[SEEN], seen, again) then return false end
  local all, twice = joined(r, seen, again, news)
  if catalogue > 0 and max(#all, #twice) > 2 * MAX_INTERVALS then
    local video = { 0, cell(catalogue) }
    r[SEEN], r[AGAIN] = intersection(r[SEEN], video), intersection(r[AGAIN], video)
    all, twice = joined(r, seen, again, news)
  end
  if #all > 2 * MAX_INTERVALS then return true end
  r[SEEN] = all
  if #twice > 2 * MAX_INTERVALS then return true end
  r[AGAIN] = twice
  return false
end

-- (at1, ms1) after (at2, ms2)
local function newer(at1, ms1, at2, ms2)
  return at1 > at2 or (at1 == at2 and ms1 > ms2)
end

local function join_position(r, ms, at, settled)
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

local function watched_s(r)
  local watched, duration = size(r[SEEN]), r[DURATION]
  if r[CLAIMED] > watched then watched = r[CLAIMED] end
  if duration > 0 and watched * 1000 > duration then watched = floor(duration / 1000) end
  return watched
end

local function is_complete(r)
  local watched, duration = watched_s(r), r[DURATION]
  if duration <= 0 or watched <= 0 then return false end
  return (watched + 1) * 1000 > duration or watched * 1000000 >= threshold * duration -- its last whole second, or enough
end

-- The seconds without what lies beyond the last of the video.
local function clip(seconds, last)
  if (seconds[#seconds] or 0) > last then return intersection(seconds, { 0, last }) end
  return seconds
end

-- Raises an error, as comparisons with what is no number do, where `n` is no whole number up to `most`.
local function check_whole(n, most)
  if not (n >= 0 and n <= most and n % 1 == 0) then error('damaged') end
end

local function check_seconds(set)
  local n, last = #set, -1
  if n % 2 ~= 0 or n > 2 * MAX_INTERVALS or (n == 0 and next(set)) then error('damaged') end
  for i = 1, n do
    check_whole(set[i], MAX_SECOND)
    if set[i] <= last then error('damaged') end
    last = set[i]
  end
end

-- Raises an error where readers would refuse the record (`_check` of storage/values/packing.py): nothing is added to it.
local function check(r)
  for i = 1, UNSETTLED_AT do
    local is_position = i == POSITION or i == UNSETTLED
    if not is_position or r[i] ~= ABSENT then check_whole(r[i], MAX_WHOLE) end
  end
  if max(r[DELETED_AT], r[LAST_WATCHED], r[COMPLETED_AT]) > MAX_INSTANT then error('damaged') end
  check_seconds(r[SEEN])
  check_seconds(r[AGAIN])
  local guards = r[GUARDS]
  if #guards % 5 ~= 0 or #guards > 5 * MAX_SESSIONS or (#guards == 0 and next(guards)) then error('damaged') end
  for g = 1, #guards, 5 do
    if type(guards[g]) ~= 'string' then error('damaged') end
    for i = g + 1, g + 4 do check_whole(guards[i], MAX_WHOLE) end
  end
end

-- A report's fields one by one, for a table of them would cost more than the rest here. Returns also `behind`, which
-- is where the report ends.
local function join(
  r, catalogue, behind,
  first_at, at, session, first_seq, seq, seen, again, played, position, position_at, seek, claimed, duration
)
  if not has_room or (not sync_fits and session == '' and seq == IN_SYNC) then return behind, TOO_MANY_VIDEOS end
  local guards = r[GUARDS]
  local g = find_guard(guards, session)
  -- Nearly always its newest session goes on, and it was sound when that began: it is looked at now and then.
  if unchecked and (not g or g + 4 ~= #guards or seq % CHECKED_EACH == 0) then
    check(r)
    unchecked = false
  end
  local is_repeat = g and seq <= guards[g + 1]
  if first_at <= r[DELETED_AT] or (g and seq <= guards[g + 4]) then return behind, DELETED end
  if catalogue > 0 then
    local last = cell(catalogue)
    seen, again, position = clip(seen, last), clip(again, last), min(position, catalogue)
  end
  local news, settled = false, false
  if session ~= '' then
    local partial = g and not is_repeat and first_seq <= guards[g + 1]
    local forgotten = not g and #guards >= 5 * MAX_SESSIONS and older(at, session, guards[3], guards[1])
    news = not (is_repeat or partial or forgotten)
    if not forgotten then
      local settle, newest_seq, newest_at = g and guards[g + 3] or 0, seq, at
      if news then
        settle = settle + played
        if seek or settle > SETTLE_MS then settle = SETTLE_MS end
      end
      settled = settle == SETTLE_MS and not is_repeat
      if g and guards[g + 1] > seq then newest_seq = guards[g + 1] end
      if g and guards[g + 2] > at then newest_at = guards[g + 2] end
      r[GUARDS] = with_guard(guards, g, session, newest_seq, newest_at, settle, g and guards[g + 4] or 0)
    end
  end
  local capped = join_seconds(r, seen, again, news, catalogue)
  join_position(r, position, position_at, settled)
  if news then r[PLAYED] = r[PLAYED] + played end
  if claimed > r[CLAIMED] then r[CLAIMED] = claimed end
  if at > r[LAST_WATCHED] then r[LAST_WATCHED] = at end
  if catalogue > 0 then duration = catalogue elseif r[DURATION] > duration then duration = r[DURATION] end
  r[DURATION] = duration
  if r[COMPLETED_AT] == 0 and is_complete(r) then r[COMPLETED_AT] = r[LAST_WATCHED] end
  return behind, capped and CAPPED or JOINED
end

local function empty(deleted_at, guards)
  return { deleted_at, 0, 0, 0, 0, 0, ABSENT, 0, ABSENT, 0, {}, {}, guards }
end

local function delete(r, now)
  if now <= r[DELETED_AT] then return JOINED, r end
  if r[LAST_WATCHED] == 0 then return NOTHING_TO_DELETE, r end
  local guards = r[GUARDS]
  for g = 1, #guards, 5 do guards[g + 4] = guards[g + 1] end
  return JOINED, empty(max(now, r[LAST_WATCHED]), guards)
end

-- How long the op at `at` of the argument is.
local function op_length(at)
  return byte(text, at + 1) - ARRAY
end

local function array(at, ...)
  if at ~= -1 then error('damaged') end
  return { ... }
end

local function read_record(value)
  local at, rev = unpack_limit(value, 1)
  if byte(value, at + 1) ~= ARRAY + RECORD or #value > MAX_VALUE or rev % 1 ~= 0 or not (rev >= 0 and rev <= MAX_WHOLE)
  then
    error('damaged')
  end
  return array(unpack_limit(value, RECORD, at + 1)), rev, at
end

-- What the record's video must know: when it was last watched, and its entry in the audience.
local function state(r, rev)
  local watched = watched_s(r)
  local completed = (watched > 0 and r[COMPLETED_AT] > 0) and 1 or 0
  return pack(r[LAST_WATCHED], rev, { watched, completed, r[SEEN], r[AGAIN] })
end

-- Pure: the value after the ops at `at`, its state, where the next record is, and the ops' codes where one is not 0.
-- Raises an error where the stored value is damaged.
local function apply(value, user_rev, catalogue, at, count)
  local r, rev, start, codes
  unchecked = value and value ~= ''
  if unchecked then
    r, rev, start = read_record(value)
    believe(r)
  else
    r = empty(0, {})
  end
  local newest = r[GUARDS][#r[GUARDS] - 3]
  for i = 1, count do
    local code, now
    if op_length(at) == REPORT then
      at, code = join(r, catalogue, unpack_limit(text, REPORT, at + 1))
    else
      at, now = unpack_limit(text, DELETION, at + 1)
      if unchecked then check(r) end
      code, r = delete(r, now)
    end
    if code ~= JOINED then
      codes = codes or {}
      codes[i] = code
    end
  end
  if r[LAST_WATCHED] == 0 and r[DELETED_AT] == 0 then return value, '', at, codes end
  -- Nearly always its newest session has gone on, and nothing more need be compared.
  if r[GUARDS][#r[GUARDS] - 3] ~= newest or not start or pack(r) ~= sub(value, start + 1) or rev <= lowest then
    rev = user_rev + 1
    value = pack(rev, r)
  end
  return value, state(r, rev), at, codes
end

-- The same of a damaged value: what is reported fails, until a deletion starts the record afresh. No value where none
-- does: then it stays as it is.
local function start_afresh(user_rev, catalogue, at, count)
  local r, codes = nil, {}
  for i = 1, count do
    local code, now = JOINED, nil
    if op_length(at) ~= REPORT then
      at, now = unpack_limit(text, DELETION, at + 1)
      if r then code, r = delete(r, now) else r = empty(now, {}) end
    elseif r then
      at, code = join(r, catalogue, unpack_limit(text, REPORT, at + 1))
    else
      at, code = unpack_limit(text, REPORT, at + 1), FAILED
    end
    if code ~= JOINED then codes[i] = code end
  end
  if not r then return nil, '', at, codes end
  return pack(user_rev + 1, r), state(r, user_rev + 1), at, codes
end

-- The revision, the trail, a value. nil where the key or the revision is not ours: then its records fail, and nobody
-- else's with them.
local function read(key, video)
  local got = redis.pcall('HMGET', key, 'rev', 'trail', video)
  if got.err then
    if string.find(got.err, '^WRONGTYPE') then return nil end
    error(got.err, 0)
  end
  local rev, trail = tonumber(got[1] or 0), got[2] or ''
  if not rev or not (rev >= 0 and rev <= MAX_REV and rev % 1 == 0) then return nil end
  return rev, #trail <= 2 * MAX_TRAIL and trail or '', got[3]
end

-- How many records more a user may have. Asked only where one would begin, or a sync came.
local function room(key, rev, trail)
  return max_videos - call('HLEN', key) + (rev > 0 and 1 or 0) + (trail ~= '' and 1 or 0)
end

-- Whether all records of the sync that are not there yet find room.
local function is_room_for_sync(key, rev, trail)
  local videos = cmsgpack.unpack(synced)
  local new = 0
  for _, value in ipairs(call('HMGET', key, unpack(videos))) do
    if not value or value == '' then new = new + 1 end
  end
  return new == 0 or new <= room(key, rev, trail)
end

-- The trail after a revision of this video.
local function follow(trail, video, rev)
  if byte(trail, #video + 1) == COMMA and sub(trail, 1, #video) == video then return trail end
  trail = video .. ',' .. rev .. ';' .. trail
  return #trail > MAX_TRAIL and string.match(sub(trail, 1, MAX_TRAIL), '^.*;') or trail
end

local channels = {}
for k = 1, #KEYS do channels[k] = string.gsub(KEYS[k], ':progress:', ':push:', 1) end
local listening = call('PUBSUB', 'SHARDNUMSUB', unpack(channels))

local revs_before, revs, states, outcomes, values, pushes, pushed = {}, {}, {}, {}, {}, {}, {}
local at, key, rev, trail, last, n = 0, nil, nil, nil, 0, 0
while at >= 0 do
  local k, subscribed, video, catalogue, wanted, count, value
  at, k, subscribed, video, catalogue, wanted, count = unpack_limit(text, 6, at + 1)
  if k ~= last then
    last, key = k, KEYS[k]
    rev, trail, value = read(key, video)
    revs_before[k], revs[k] = rev or 0, rev or 0
    rev = rev and max(rev, lowest)
    if listening[2 * k] > subscribed then pushes[k] = {} end
    if rev and synced ~= '' then sync_fits = is_room_for_sync(key, revs[k], trail) end
  elseif rev then
    value = call('HGET', key, video)
  end
  has_room = not rev or (value and value ~= '') or room(key, revs[k], trail) > 0
  local after, state_after, codes
  if rev then
    local sound, applied, its_state, behind, its_codes = pcall(apply, value, rev, catalogue, at, count)
    if sound then
      after, state_after, at, codes = applied, its_state, behind, its_codes
    else
      unchecked = false
      after, state_after, at, codes = start_afresh(rev, catalogue, at, count)
    end
  else
    state_after, codes = '', {}
    for i = 1, count do at, codes[i] = unpack_limit(text, op_length(at), at + 1), FAILED end
  end
  n = n + 1
  states[n] = state_after
  if after and after ~= value then
    rev = rev + 1
    local followed = follow(trail, video, rev)
    if followed == trail then
      call('HSET', key, video, after, 'rev', rev)
    else
      trail = followed
      call('HSET', key, video, after, 'rev', rev, 'trail', trail)
    end
    revs[k] = rev
    if pushes[k] then
      table.insert(pushes[k], { video, after })
      pushed[k] = (pushed[k] or 0) + #after
    end
  end
  if wanted == 1 or codes then
    local m = #values
    values[m + 1], values[m + 2] = n - 1, after or ''
  end
  for i = 1, codes and count or 0 do
    if codes[i] then
      local m = #outcomes
      outcomes[m + 1], outcomes[m + 2], outcomes[m + 3] = n - 1, i - 1, codes[i]
    end
  end
end
for k, push in pairs(pushes) do
  local before_it = revs_before[k]
  if #push > MAX_PUSH or (pushed[k] or 0) > MAX_PUSH_BYTES then
    before_it, push = revs[k], {} -- too much to be sent to all who listen: each reads what it lacks
  end
  if pushed[k] then call('SPUBLISH', channels[k], pack({ worker, before_it, revs[k], push })) end
end
return pack({ revs_before, revs, states, outcomes, values })
