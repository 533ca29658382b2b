-- Stage 2 of a commit: bring records into the audience and the totals of their videos, by difference to what the
-- audience held. Skips what is not newer (by rev) than what it has, so it may be repeated, late, or out of order.
--
-- KEYS[4i-3]  audience of video i: userId -> entry     KEYS[4i-1]  curve: difference arrays, "s<second>" of the viewers
-- KEYS[4i-2]  summary: viewers, completed, watched                 of each second, "a<second>" of those who saw it again
-- KEYS[4i]    live: zset, userId by lastWatched, ms
-- ARGV[1]     now, ms    ARGV[2]  ms after which a viewer leaves `live`
-- ARGV[3]     msgpack: for each video its items; an item {userId, value as users.lua answers it}
-- returns     number of entries that changed
--
-- An entry is two msgpack objects: the rev, and {watched s, completed 0/1, seen, again}. A deleted record leaves an
-- empty entry, so that an older state that comes late is still known to be older.

local LAST_WATCHED, CLAIMED, DURATION, COMPLETED_AT, SEEN, AGAIN = 2, 3, 5, 6, 11, 12

local function size(a)
  local total = 0
  for i = 1, #a, 2 do total = total + a[i + 1] - a[i] end
  return total
end

local function add(totals, field, by)
  if by ~= 0 then totals[field] = (totals[field] or 0) + by end
end

-- The difference array's change from set `old` to set `new`; what they begin with alike cancels out.
local function add_curve(totals, letter, old, new)
  local i = 1
  while old[i] and old[i] == new[i] and old[i + 1] == new[i + 1] do i = i + 2 end
  for j = i, #old, 2 do
    add(totals, letter .. old[j], -1)
    add(totals, letter .. old[j + 1], 1)
  end
  for j = i, #new, 2 do
    add(totals, letter .. new[j], 1)
    add(totals, letter .. new[j + 1], -1)
  end
end

local function write(key, totals)
  for field, by in pairs(totals) do
    if by ~= 0 and redis.call('HINCRBY', key, field, by) == 0 then redis.call('HDEL', key, field) end
  end
end

local function decode(value, entry)
  local rev, record = cmsgpack.unpack(value)
  local had_rev, had = 0, { 0, 0, {}, {} }
  if entry then had_rev, had = cmsgpack.unpack(entry) end
  return rev, record, had_rev, { had[1] + 0, had[2] + 0, had[3], had[4] }, #had[3] + #had[4]
end

-- While the video is recounted: what changes now is kept as it was when that began (recount.lua, its KEYS[4]).
-- A recount that was given up leaves the mark in the summary, and the rest expires.
local function keep(audience, summary, olds)
  local before = string.gsub(audience, ':audience:', ':before:', 1)
  if not redis.call('HGET', before, '') then
    redis.call('HDEL', summary, 'recount')
    return
  end
  for user, entry in pairs(olds) do
    if not redis.call('HGET', before, user) then redis.call('HSET', before, user, entry) end
  end
end

local now, stale, changed = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for v, items in ipairs(cmsgpack.unpack(ARGV[3])) do
  local audience, summary, curve, live = KEYS[4 * v - 3], KEYS[4 * v - 2], KEYS[4 * v - 1], KEYS[4 * v]
  local totals, points, entries, olds, seen_at, left = {}, {}, {}, {}, {}, {}
  for _, item in ipairs(items) do
    local user, value = item[1], item[2]
    local entry = entries[user] or redis.call('HGET', audience, user)
    -- Decoded first and under pcall: one damaged entry costs itself, not the batch.
    local ok, rev, record, had_rev, had = pcall(decode, value, entry)
    if ok and rev > had_rev then
      if not entries[user] then olds[user] = entry or '' end
      local watched = math.max(size(record[SEEN]), record[CLAIMED])
      if record[DURATION] > 0 then watched = math.min(watched, math.floor(record[DURATION] / 1000)) end
      local viewer = watched > 0 and 1 or 0
      local completed = (viewer == 1 and record[COMPLETED_AT] > 0) and 1 or 0
      add(totals, 'viewers', viewer - (had[1] > 0 and 1 or 0))
      add(totals, 'watched', watched - had[1])
      add(totals, 'completed', completed - had[2])
      add_curve(points, 's', had[3], record[SEEN])
      add_curve(points, 'a', had[4], record[AGAIN])
      entries[user] = cmsgpack.pack(rev) .. cmsgpack.pack({ watched, completed, record[SEEN], record[AGAIN] })
      seen_at[user], left[user] = record[LAST_WATCHED], record[LAST_WATCHED] == 0 or nil
      changed = changed + 1
    end
  end
  if next(entries) and redis.call('HGET', summary, 'recount') then keep(audience, summary, olds) end
  for user, entry in pairs(entries) do
    redis.call('HSET', audience, user, entry)
    if left[user] then
      redis.call('ZREM', live, user)
    elseif seen_at[user] > now - stale then
      redis.call('ZADD', live, seen_at[user], user)
    end
  end
  write(summary, totals)
  write(curve, points)
  redis.call('ZREMRANGEBYSCORE', live, '-inf', now - stale)
end
return changed
