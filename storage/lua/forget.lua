-- Removes entries from the audience of a video, and what they add from its totals. Safe to repeat.
--
-- KEYS[1]  audience: userId -> entry (entry.lua)    KEYS[2]  summary    KEYS[3]  curve    KEYS[4]  before (recount.lua)
-- ARGV[1]  msgpack { { userId, its entry as it was read }, … }; an entry that has changed since stays
-- returns  how many were removed
--
-- A damaged entry is removed and the totals stay as they are: a recount corrects those.

local audience, summary, curve, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local viewers, completions, seconds, seen_steps, again_steps, removed = 0, 0, 0, {}, {}, 0

-- Add the changes to the fields of a hash; a field that is not an integer is left to the recount.
local function add(key, fields, changes)
  for i, field in ipairs(fields) do
    if changes[i] ~= 0 then
      local sum = redis.pcall('HINCRBY', key, field, changes[i])
      if sum == 0 then redis.call('HDEL', key, field) end
      if type(sum) == 'table' and not string.find(sum.err, 'not an integer') then error(sum.err, 0) end
    end
  end
end

local recounted = redis.call('EXISTS', before) == 1
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local user, entry = item[1], item[2]
  if redis.call('HGET', audience, user) == entry then
    if recounted then redis.call('HSETNX', before, user, entry) end
    local sound, watched, completed, seen, again = pcall(unpack_entry, entry)
    if sound then
      viewers = viewers - (watched > 0 and 1 or 0)
      completions, seconds = completions - completed, seconds - watched
      add_steps(seen_steps, seen, 1, -1)
      add_steps(again_steps, again, 1, -1)
    end
    redis.call('HDEL', audience, user)
    removed = removed + 1
  end
end
add(summary, { 'viewers', 'completed', 'watched' }, { viewers, completions, seconds })
add(curve, append_fields(again_steps, 'a%d', append_fields(seen_steps, 's%d', {}, {})))
return removed
