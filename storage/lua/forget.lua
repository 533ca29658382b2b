-- Take entries out of the audience of a video, and what they say out of its totals. Safe to apply twice.
--
-- KEYS[1]  audience: userId -> entry    KEYS[2]  summary    KEYS[3]  curve    KEYS[4]  before: see recount.lua
-- ARGV[1]  msgpack: {userId, the entry as it was read} for each; one that has changed since stays
-- returns  how many are gone
--
-- An entry that can't be read is taken out and leaves the totals as they are: a recount puts those right.

local audience, summary, curve, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local changes, points, gone = {}, {}, 0

local function add(totals, field, by)
  totals[field] = (totals[field] or 0) + by
end

local function take_out(watched, completed, seen, again)
  for letter, set in pairs({ s = seen, a = again }) do
    for j = 1, #set, 2 do
      add(points, letter .. set[j], -1)
      add(points, letter .. set[j + 1], 1)
    end
  end
  add(changes, 'viewers', watched > 0 and -1 or 0)
  add(changes, 'watched', -watched)
  add(changes, 'completed', -completed)
end

-- A field that holds no integer is left to the recount.
local function write(key, totals)
  for field, by in pairs(totals) do
    if by ~= 0 then
      local sum = redis.pcall('HINCRBY', key, field, by)
      if sum == 0 then redis.call('HDEL', key, field) end
      if type(sum) == 'table' and not string.find(sum.err, 'not an integer') then error(sum.err, 0) end
    end
  end
end

local counted = redis.call('EXISTS', before) == 1
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local user, entry = item[1], item[2]
  if redis.call('HGET', audience, user) == entry then
    if counted then redis.call('HSETNX', before, user, entry) end
    local sound, watched, completed, seen, again = pcall(read_entry, entry)
    if sound then take_out(watched, completed, seen, again) end
    redis.call('HDEL', audience, user)
    gone = gone + 1
  end
end
write(summary, changes)
write(curve, points)
return gone
