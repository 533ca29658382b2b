-- Stage 2 of a commit: bring records into the audience and the totals of their videos, by difference to what the
-- audience held. Skips what is not newer (by rev) than what it has, so it may be repeated, late, or out of order.
--
-- KEYS[4i-3]  audience of video i: userId -> entry     KEYS[4i-1]  curve: difference arrays, "s<second>" of the viewers
-- KEYS[4i-2]  summary: viewers, completed, watched                 of each second, "a<second>" of those who saw it again
-- KEYS[4i]    live: zset, userId by lastWatched, ms
-- ARGV[1]     now, ms since 1970: nobody has watched later    ARGV[2]  ms after which a viewer leaves `live`
-- ARGV[3]     msgpack: for each video {userIds, none twice, and of each the state that users.lua answered}
-- returns     {number of entries that changed, place of a video from 0, userId, what is wrong, …}: the entries that can't
--             be read, and are left as they are; with userId "", the videos of whose keys one has another type, and of
--             which nothing was changed but perhaps who watches now
--
-- An entry is two msgpack objects: the rev, and {watched s, completed 0/1, seen, again}. A deleted record leaves an
-- empty entry, so that an older state that comes late is still known to be older. A state is
-- lastWatched, and the entry behind it.
--
-- What is read or written of one key goes in one command: each command costs more than what it does.

local MOST = 1000 -- arguments of a command that are a table here; Lua's stack has room for some 8,000
local min, sub, format, unpack_limit, NONE = math.min, string.sub, string.format, cmsgpack.unpack_limit, {}
local pcall, tonumber = pcall, tonumber
local call = redis.call
local TOTALS = { 'viewers', 'completed', 'watched' }
local MAX_SECOND, MAX_VALUE = 172800, 65536

-- From where on set `old`, which is stored, differs from set `new`: what they begin with alike cancels out. Raises an
-- error where `old` is no set of seconds (`check_seconds` of packing.py).
local function first_change(old, new)
  local i, n = 1, #old
  while old[i] and old[i] == new[i] do i = i + 1 end
  local last = old[i - 1] or -1
  for j = i, n do
    local second = old[j]
    if not (second > last and second % 1 == 0) then error('a set of seconds is sorted pairs') end
    last = second
  end
  if n % 2 ~= 0 or last > MAX_SECOND then error('a set of seconds is sorted pairs') end
  return i
end

-- The difference array's change from set `old` to set `new`, which differ from `i` on.
local function add_curve(points, old, new, i)
  local by = i % 2 == 1 and 1 or -1 -- where a stretch begins, or ends
  for j = i, #old do
    points[old[j]] = (points[old[j]] or 0) + ((j - i) % 2 == 0 and -by or by)
  end
  for j = i, #new do
    points[new[j]] = (points[new[j]] or 0) + ((j - i) % 2 == 0 and by or -by)
  end
end

-- Returns how many were new there.
local function send(command, key, arguments)
  local new = 0
  for i = 1, #arguments, MOST do
    new = new + call(command, key, unpack(arguments, i, min(#arguments, i + MOST - 1)))
  end
  return new
end

-- Field by field the sum of what is there and `by`; a field that comes to 0 goes. What is there and is no integer counts
-- as 0, for a recount to put right. known: what is there in the first MOST of them, if it was read.
local function write(key, fields, by, known)
  for first = 1, #fields, MOST do
    local last = min(#fields, first + MOST - 1)
    local had, set, n, gone = first == 1 and known or call('HMGET', key, unpack(fields, first, last)), {}, 0, {}
    for i = first, last do
      local value = had[i - first + 1]
      local sum = (tonumber(value or 0) or 0) + by[i]
      if sum % 1 ~= 0 then sum = by[i] end
      if value and sum == 0 then
        gone[#gone + 1] = fields[i]
      elseif by[i] ~= 0 then
        set[n + 1], set[n + 2], n = fields[i], sum, n + 2
      end
    end
    send('HSET', key, set)
    send('HDEL', key, gone)
  end
end

local function listed(totals, name, fields, by)
  local n = #fields
  for second, sum in pairs(totals) do
    if sum ~= 0 then
      n = n + 1
      fields[n], by[n] = format(name, second), sum
    end
  end
  return fields, by
end

local function read(entry)
  local at, rev = unpack_limit(entry, 1)
  local _, watched, completed, seen, again = unpack_limit(entry, 4, at + 1)
  return rev, watched, completed, seen, again
end

-- As `read`, of an entry that is stored and shall become one with these sets; also from where on those differ. Raises an
-- error where `unpack_entry` of storage/values/audience.py would not take it.
local function read_stored(entry, new_seen, new_again)
  local at, rev = unpack_limit(entry, 1)
  local behind, watched, completed, seen, again = unpack_limit(entry, 4, at + 1)
  if behind ~= -1 or rev % 1 ~= 0 or not (watched <= MAX_SECOND and watched % 1 == 0 and rev >= 0 and watched >= 0)
    or (completed ~= 0 and completed ~= 1) or #entry > MAX_VALUE then
    error('of another length, or a number that is too large or too small')
  end
  return rev, watched, completed, seen, again, first_change(seen, new_seen), first_change(again, new_again)
end

-- While the video is recounted: what changes now is kept as it was when that began (recount.lua, its KEYS[4]).
-- A recount that was given up leaves the mark in the summary, and the rest expires.
local function keep(audience, summary, olds)
  local before = string.gsub(audience, ':audience:', ':before:', 1)
  if type(redis.pcall('HGET', before, '')) ~= 'string' then
    call('HDEL', summary, 'recount')
    return
  end
  for user, entry in pairs(olds) do
    if not call('HGET', before, user) then call('HSET', before, user, entry) end
  end
end

local now, stale, answer = tonumber(ARGV[1]), tonumber(ARGV[2]), { 0 }

local function tell(v, user, why)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = v - 1, user, why
end

-- All that is read of a video is read before anything is written: so a key of another type leaves it as it was. Only
-- `live` is not read; it holds no truth, and is written last.
local function bring(v, users, states)
  local audience, summary, curve, live = KEYS[4 * v - 3], KEYS[4 * v - 2], KEYS[4 * v - 1], KEYS[4 * v]
  local had = call('HMGET', audience, unpack(users))
  local viewers, completions, seconds, points, replays = 0, 0, 0, {}, {}
  local entries, olds, lively, gone, e, l = {}, {}, {}, {}, 0, 0
  local totals = call('HMGET', summary, 'viewers', 'completed', 'watched', 'recount')
  local recounted = totals[4]
  for i = 1, #users do
    local user = users[i]
    local at, last_watched = unpack_limit(states[i], 1)
    local entry = sub(states[i], at + 1)
    local rev, watched, completed, seen, again = read(entry)
    local sound, had_rev, had_watched, had_completed, had_seen, had_again, j, k = true, 0, 0, 0, NONE, NONE, 1, 1
    if had[i] then
      -- Under pcall: one damaged entry costs itself, not the video.
      sound, had_rev, had_watched, had_completed, had_seen, had_again, j, k = pcall(read_stored, had[i], seen, again)
      if not sound then tell(v, user, had_rev) end
    end
    if sound and rev > had_rev then
      viewers = viewers + (watched > 0 and 1 or 0) - (had_watched > 0 and 1 or 0)
      completions = completions + completed - had_completed
      seconds = seconds + watched - had_watched
      add_curve(points, had_seen, seen, j)
      add_curve(replays, had_again, again, k)
      entries[e + 1], entries[e + 2], e = user, entry, e + 2
      if recounted then olds[user] = had[i] or '' end
      if last_watched == 0 then
        gone[#gone + 1] = user
      elseif last_watched > now - stale then
        lively[l + 1], lively[l + 2], l = min(last_watched, now), user, l + 2
      end
    end
  end
  if e > 0 then
    local fields, by = listed(replays, 'a%d', listed(points, 's%d', {}, {}))
    local known = #fields > 0 and call('HMGET', curve, unpack(fields, 1, min(#fields, MOST)))
    if recounted then keep(audience, summary, olds) end
    send('HSET', audience, entries) -- before the totals: a batch that fails here adds nothing to them when made again
    write(summary, TOTALS, { viewers, completions, seconds }, totals)
    write(curve, fields, by, known)
    answer[1] = answer[1] + e / 2
    send('ZREM', live, gone)
    -- It grows here alone: so this is where those go who left long ago.
    if send('ZADD', live, lively) > 0 then
      call('ZREMRANGEBYSCORE', live, '-inf', now - stale)
      call('ZREMRANGEBYSCORE', live, now + stale, '+inf') -- of a clock that was ahead
    end
  end
end

-- Under pcall: a video of whose keys one has another type costs itself, not the batch. Any other error, as of a store
-- that is out of memory, must fail the batch, which is then made again.
for v, group in ipairs(cmsgpack.unpack(ARGV[3])) do
  local done, why = pcall(bring, v, group[1], group[2])
  if not done then
    local text = type(why) == 'table' and why.err or why
    if not string.find(text, 'WRONGTYPE', 1, true) then error(text, 0) end
    tell(v, '', text)
  end
end
return answer
