-- Stage 2 of a commit: updates the audiences and the totals of some videos by the difference between each viewer's new
-- entry and the stored one. A state whose revision is not higher than that of the stored entry is skipped, so calls may be
-- repeated, late, or out of order.
--
-- KEYS[4i-3]  audience of video i: userId -> entry (entry.lua)     KEYS[4i-1]  its curve (curve.lua)
-- KEYS[4i-2]  its summary: viewers, completed, watched             KEYS[4i]    live: sorted set, userId by lastWatched, ms
-- ARGV[1]     now, ms since 1970: nobody has watched later    ARGV[2]  ms after which a viewer leaves `live`
-- ARGV[3]     msgpack { { userIds, states }, … }: for each video its users, none twice, and the state of each (users.lua)
-- returns     { number of entries that changed, index of a video from 0, userId, error, … }: the damaged entries, which are
--             left as they are; with userId "", the videos one of whose keys has another Redis type. Of those nothing was
--             changed, except perhaps who watches now
--
-- A deleted record leaves an empty entry, so that an older state that arrives late is still recognised as older.
--
-- Everything that is read or written of one key goes in one command: the command costs more than its effect.

local BATCH = 1000 -- arguments of one command; Lua's stack has room for some 8,000
local TOTALS = { 'viewers', 'completed', 'watched' }
local NONE = {}

local min, pcall, sub, tonumber = math.min, pcall, string.sub, tonumber
local call, unpack_limit = redis.call, cmsgpack.unpack_limit

-- The index from which the stored set `old` differs from the set `new`: what comes before it cancels out. Raises an error if
-- `old` is not a set of seconds (`check_seconds`, for half its cost: what both sets begin with needs no check).
local function first_change(old, new)
  local i, n = 1, #old
  while old[i] and old[i] == new[i] do i = i + 1 end
  local last = old[i - 1] or -1
  for j = i, n do
    local second = old[j]
    if not (second > last and second % 1 == 0) then error('a set of seconds is sorted pairs') end
    last = second
  end
  if n % 2 ~= 0 or last > MAX_MEDIA_S then error('a set of seconds is sorted pairs') end
  return i
end

-- Call a command with any number of arguments. Returns the sum of the replies: the number of new elements.
local function send(command, key, arguments)
  local new = 0
  for i = 1, #arguments, BATCH do
    new = new + call(command, key, unpack(arguments, i, min(#arguments, i + BATCH - 1)))
  end
  return new
end

-- Add the changes to the fields of a hash; a field whose sum is 0 is removed. A stored value that is not an integer counts
-- as 0; a recount corrects it. stored: the values of the first BATCH fields, if they have been read.
local function add(key, fields, changes, stored)
  for first = 1, #fields, BATCH do
    local last = min(#fields, first + BATCH - 1)
    local values, set, n, removed = first == 1 and stored or call('HMGET', key, unpack(fields, first, last)), {}, 0, {}
    for i = first, last do
      local value = values[i - first + 1]
      local sum = (tonumber(value or 0) or 0) + changes[i]
      if sum % 1 ~= 0 then sum = changes[i] end
      if value and sum == 0 then
        removed[#removed + 1] = fields[i]
      elseif changes[i] ~= 0 then
        set[n + 1], set[n + 2], n = fields[i], sum, n + 2
      end
    end
    send('HSET', key, set)
    send('HDEL', key, removed)
  end
end

-- The entry of a state, which users.lua has just made.
local function unpack_new(entry)
  local at, rev = unpack_limit(entry, 1)
  local _, watched, completed, seen, again = unpack_limit(entry, 4, at + 1)
  return rev, watched, completed, seen, again
end

-- A stored entry that is about to be replaced by one with these sets, and the indices from which its sets differ from them.
-- Raises an error if the entry is damaged.
local function unpack_stored(entry, new_seen, new_again)
  local at, rev = unpack_limit(entry, 1)
  local next_at, watched, completed, seen, again = unpack_limit(entry, 4, at + 1)
  if next_at ~= -1 or rev % 1 ~= 0 or not (watched <= MAX_MEDIA_S and watched % 1 == 0 and rev >= 0 and watched >= 0)
    or (completed ~= 0 and completed ~= 1) or #entry > MAX_VALUE then
    error('of another length, or a number that is too large or too small')
  end
  return rev, watched, completed, seen, again, first_change(seen, new_seen), first_change(again, new_again)
end

-- While the video is recounted, keep entries that change as they were when the recount began (KEYS[4] of recount.lua). An
-- abandoned recount leaves its mark in the summary, and everything else of it expires.
local function keep_for_recount(audience, summary, old_entries)
  local before = string.gsub(audience, ':audience:', ':before:', 1)
  if type(redis.pcall('HGET', before, '')) ~= 'string' then
    call('HDEL', summary, 'recount')
    return
  end
  for user, entry in pairs(old_entries) do
    if not call('HGET', before, user) then call('HSET', before, user, entry) end
  end
end

local now, stale_ms, answer = tonumber(ARGV[1]), tonumber(ARGV[2]), { 0 }

local function report(v, user, why)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3] = v - 1, user, why
end

-- Everything that is read of a video is read before anything is written, so a key of another type leaves it unchanged. Only
-- `live` is not read; it can be rebuilt, and is written last.
local function update(v, users, states)
  local audience, summary, curve, live = KEYS[4 * v - 3], KEYS[4 * v - 2], KEYS[4 * v - 1], KEYS[4 * v]
  local stored = call('HMGET', audience, unpack(users))
  local viewers, completions, seconds, seen_steps, again_steps = 0, 0, 0, {}, {}
  local entries, old_entries, watching, deleted, e, w = {}, {}, {}, {}, 0, 0
  local totals = call('HMGET', summary, 'viewers', 'completed', 'watched', 'recount')
  local recounted = totals[4]
  for i = 1, #users do
    local user = users[i]
    local at, last_watched = unpack_limit(states[i], 1)
    local entry = sub(states[i], at + 1)
    local rev, watched, completed, seen, again = unpack_new(entry)
    local sound, had_rev, had_watched, had_completed, had_seen, had_again, j, k = true, 0, 0, 0, NONE, NONE, 1, 1
    if stored[i] then
      -- Under pcall, so that a damaged entry affects neither the other entries nor the other videos.
      sound, had_rev, had_watched, had_completed, had_seen, had_again, j, k = pcall(unpack_stored, stored[i], seen, again)
      if not sound then report(v, user, had_rev) end
    end
    if sound and rev > had_rev then
      viewers = viewers + (watched > 0 and 1 or 0) - (had_watched > 0 and 1 or 0)
      completions = completions + completed - had_completed
      seconds = seconds + watched - had_watched
      add_steps(seen_steps, had_seen, j, -1)
      add_steps(seen_steps, seen, j, 1)
      if k <= #had_again or k <= #again then -- seldom
        add_steps(again_steps, had_again, k, -1)
        add_steps(again_steps, again, k, 1)
      end
      entries[e + 1], entries[e + 2], e = user, entry, e + 2
      if recounted then old_entries[user] = stored[i] or '' end
      if last_watched == 0 then
        deleted[#deleted + 1] = user
      elseif last_watched > now - stale_ms then
        watching[w + 1], watching[w + 2], w = min(last_watched, now), user, w + 2
      end
    end
  end
  if e > 0 then
    local fields, changes = append_fields(again_steps, 'a%d', append_fields(seen_steps, 's%d', {}, {}))
    local stored_steps = #fields > 0 and call('HMGET', curve, unpack(fields, 1, min(#fields, BATCH)))
    if recounted then keep_for_recount(audience, summary, old_entries) end
    send('HSET', audience, entries) -- before the totals: if this fails, the repeated batch does not add to them twice
    add(summary, TOTALS, { viewers, completions, seconds }, totals)
    add(curve, fields, changes, stored_steps)
    answer[1] = answer[1] + e / 2
    send('ZREM', live, deleted)
    -- `live` grows only here, so viewers who left long ago are removed here.
    if send('ZADD', live, watching) > 0 then
      call('ZREMRANGEBYSCORE', live, '-inf', now - stale_ms)
      call('ZREMRANGEBYSCORE', live, now + stale_ms, '+inf') -- written by a clock that was ahead
    end
  end
end

-- Under pcall, so that a video one of whose keys has another type does not affect the others. Any other error, such as that
-- of a store that is out of memory, must fail the batch, which is then committed again.
for v, group in ipairs(cmsgpack.unpack(ARGV[3])) do
  local done, why = pcall(update, v, group[1], group[2])
  if not done then
    local text = type(why) == 'table' and why.err or why
    if not string.find(text, 'WRONGTYPE', 1, true) then error(text, 0) end
    report(v, '', text)
  end
end
return answer
