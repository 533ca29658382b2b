-- Stage 1 of a commit: joins reports into the records of some users, by the rule in record.lua.
-- Safe to repeat: a repeated call changes nothing and returns the same states.
--
-- KEYS[i]  the progress hash of user i: videoId -> value, and the fields of progress.lua
-- ARGV[1]  completion threshold, in thousandths
-- ARGV[2]  name of the calling worker, by which it recognises its own push messages
-- ARGV[3]  msgpack arrays, one after the other: for each record a head { i, subscribed, videoId, catalogue_ms, wanted,
--          number of ops }, then its ops. A user's records are consecutive, the users in the order of KEYS. An op is a
--          Report (its fields in order) or a deletion ({ its instant, ms }).
--          subscribed: 1 if the calling worker itself is subscribed to this user    wanted: 1 if it wants the value
-- ARGV[4]  every new revision is higher than this; a record at or below it gets a new one (storage/guarantees/epoch.py)
-- ARGV[5]  ms since 1970: a stored instant after this was made by a clock that was wrong
-- ARGV[6]  ms since 1970: what such an instant becomes (`clamp_instants`)
-- ARGV[7]  records that a user may have, tombstones included; a report that would create one more is not joined
-- ARGV[8]  "", or msgpack of the videoIds of a sync. Then everything in ARGV[3] is of one user, the sync's records come
--          first, and its items (`seq` IN_SYNC, no session) are joined only if there is room for all of its new records
-- returns  msgpack { revs before, revs after, states, outcomes, values }: for each user, for each user, for each record its
--          state ("" if there is no record), and two flat lists: { record from 0, op from 0, outcome, … } of
--          the ops whose outcome is not JOINED, { record from 0, value, … } of the wanted records and of those with such ops
--
-- This runs for every record of every flush. Tables and calls make up most of its cost, so arrays are read without a table
-- for each, and the reports of a player that just plays on take the short paths marked "the common case".

local DELETION_FIELDS = 1
local MAX_PUSH, MAX_PUSH_BYTES = 100, 65536 -- of records in one push message

local byte, max, pcall, sub, tonumber = string.byte, math.max, pcall, string.sub, tonumber
local call, pack, unpack_limit = redis.call, cmsgpack.pack, cmsgpack.unpack_limit

local threshold_permille, worker, text, lowest = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local latest, before = tonumber(ARGV[5]), tonumber(ARGV[6])
local max_videos, synced = tonumber(ARGV[7]), ARGV[8]
local has_room -- whether the record at hand exists or may be created
local join_report = join

-- `join` for a sync whose new records do not find room.
local function refuse_sync(r, catalogue_ms, permille, room, next_at, REPORT)
  if session == '' and seq == IN_SYNC then return next_at, TOO_MANY_VIDEOS end
  return join(r, catalogue_ms, permille, room, next_at, REPORT)
end

-- The number of fields of the op that starts after `at`.
local function op_length(at)
  return byte(text, at + 1) - ARRAY
end

-- What stage 2 needs of a record (videos.lua): lastWatched, followed by the entry.
local function state_of(r, rev)
  local watched_s = watched(r)
  local completed = (watched_s > 0 and r[COMPLETED_AT] > 0) and 1 or 0
  return pack(r[LAST_WATCHED], rev, { watched_s, completed, r[SEEN], r[AGAIN] })
end

-- Joins the ops at `at` into a stored value. Nothing is written, so an error leaves everything as it was.
-- Returns the new value, its state, where the next head is, and the outcomes, nil if all are JOINED. Raises an error if the
-- stored value is damaged.
local function apply(value, user_rev, catalogue_ms, at, count)
  local r, rev, rev_length, outcomes
  unchecked = value and value ~= ''
  if unchecked then
    r, rev, rev_length = unpack_record(value)
    clamp_instants(r, latest, before)
  else
    r = { EMPTY_RECORD }
  end
  local newest_seq = r[GUARDS][#r[GUARDS] - GUARD_FIELDS + 1 + GUARD_SEQ]
  for i = 1, count do
    local outcome, now
    if op_length(at) == REPORT_FIELDS then
      at, outcome = join_report(
        r, catalogue_ms, threshold_permille, has_room, unpack_limit(text, REPORT_FIELDS, at + 1)
      )
    else
      at, now = unpack_limit(text, DELETION_FIELDS, at + 1)
      if unchecked then check(r) end
      r, outcome = delete(r, now)
    end
    if outcome ~= JOINED then
      outcomes = outcomes or {}
      outcomes[i] = outcome
    end
  end
  if not counts(r) then return value, '', at, outcomes end
  -- In the common case the newest session has gone on, and nothing else needs to be compared.
  if r[GUARDS][#r[GUARDS] - GUARD_FIELDS + 1 + GUARD_SEQ] ~= newest_seq or not rev_length
    or pack(r) ~= sub(value, rev_length + 1) or rev <= lowest then
    rev = user_rev + 1
    value = pack(rev, r)
  end
  return value, state_of(r, rev), at, outcomes
end

-- As `apply`, for a damaged value: reports fail until a deletion replaces the record by a tombstone. Returns no value if
-- there is no deletion: then the damaged value stays.
local function replace_damaged(user_rev, catalogue_ms, at, count)
  local r, outcomes = nil, {}
  for i = 1, count do
    local outcome, now = JOINED, nil
    if op_length(at) ~= REPORT_FIELDS then
      at, now = unpack_limit(text, DELETION_FIELDS, at + 1)
      if r then
        r, outcome = delete(r, now)
      else
        r = { EMPTY_RECORD }
        r[DELETED_AT] = now
      end
    elseif r then
      at, outcome = join_report(
        r, catalogue_ms, threshold_permille, has_room, unpack_limit(text, REPORT_FIELDS, at + 1)
      )
    else
      at, outcome = unpack_limit(text, REPORT_FIELDS, at + 1), FAILED
    end
    if outcome ~= JOINED then outcomes[i] = outcome end
  end
  if not r then return nil, '', at, outcomes end
  return pack(user_rev + 1, r), state_of(r, user_rev + 1), at, outcomes
end

-- The revision, the trail, and one value. nil if the key or its revision is not ours: then its records fail, and only they.
local function read(key, video)
  local got = redis.pcall('HMGET', key, 'rev', 'trail', video)
  if got.err then
    if string.find(got.err, '^WRONGTYPE') then return nil end
    error(got.err, 0)
  end
  local rev, trail = read_rev(got[1]), got[2] or ''
  if not rev then return nil end
  return rev, #trail <= 2 * MAX_TRAIL and trail or '', got[3]
end

-- How many more records the user may have. Computed only if one may be created, or for a sync.
local function room(key, rev, trail)
  return max_videos - call('HLEN', key) + (rev > 0 and 1 or 0) + (trail ~= '' and 1 or 0)
end

-- Whether there is room for all records of the sync that do not exist yet.
local function is_room_for_sync(key, rev, trail)
  local videos = cmsgpack.unpack(synced)
  local new = 0
  for _, value in ipairs(call('HMGET', key, unpack(videos))) do
    if not value or value == '' then new = new + 1 end
  end
  return new == 0 or new <= room(key, rev, trail)
end

local channels = {}
for k = 1, #KEYS do channels[k] = channel_of(KEYS[k]) end
local subscribers = call('PUBSUB', 'SHARDNUMSUB', unpack(channels))

local revs_before, revs, states, outcomes, values, pushes, push_bytes = {}, {}, {}, {}, {}, {}, {}
local at, key, rev, trail, last, n = 0, nil, nil, nil, 0, 0
while at >= 0 do
  local k, subscribed, video, catalogue_ms, wanted, count, value
  at, k, subscribed, video, catalogue_ms, wanted, count = unpack_limit(text, 6, at + 1)
  if k ~= last then
    last, key = k, KEYS[k]
    rev, trail, value = read(key, video)
    revs_before[k], revs[k] = rev or 0, rev or 0
    rev = rev and max(rev, lowest)
    if subscribers[2 * k] > subscribed then pushes[k] = {} end
    if rev and synced ~= '' and not is_room_for_sync(key, revs[k], trail) then join_report = refuse_sync end
  elseif rev then
    value = call('HGET', key, video)
  end
  has_room = not rev or (value and value ~= '') or room(key, revs[k], trail) > 0
  local new_value, state, its_outcomes
  if rev then
    local sound, applied, its_state, next_at, non_joined = pcall(apply, value, rev, catalogue_ms, at, count)
    if sound then
      new_value, state, at, its_outcomes = applied, its_state, next_at, non_joined
    else
      unchecked = false
      new_value, state, at, its_outcomes = replace_damaged(rev, catalogue_ms, at, count)
    end
  else
    state, its_outcomes = '', {}
    for i = 1, count do at, its_outcomes[i] = unpack_limit(text, op_length(at), at + 1), FAILED end
  end
  n = n + 1
  states[n] = state
  if new_value and new_value ~= value then
    rev = rev + 1
    local new_trail = add_to_trail(trail, video, rev)
    if new_trail == trail then
      call('HSET', key, video, new_value, 'rev', rev)
    else
      trail = new_trail
      call('HSET', key, video, new_value, 'rev', rev, 'trail', trail)
    end
    revs[k] = rev
    if pushes[k] then
      table.insert(pushes[k], { video, new_value })
      push_bytes[k] = (push_bytes[k] or 0) + #new_value
    end
  end
  if wanted == 1 or its_outcomes then
    local m = #values
    values[m + 1], values[m + 2] = n - 1, new_value or ''
  end
  for i = 1, its_outcomes and count or 0 do
    if its_outcomes[i] then
      local m = #outcomes
      outcomes[m + 1], outcomes[m + 2], outcomes[m + 3] = n - 1, i - 1, its_outcomes[i]
    end
  end
end
for k, records in pairs(pushes) do
  local rev_before = revs_before[k]
  if #records > MAX_PUSH or (push_bytes[k] or 0) > MAX_PUSH_BYTES then
    rev_before, records = revs[k], {} -- too large to be sent to every subscriber
  end
  if push_bytes[k] then publish(channels[k], worker, rev_before, revs[k], records) end
end
return pack({ revs_before, revs, states, outcomes, values })
