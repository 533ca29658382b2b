-- Put records in the place of those that a caller has read, if they are still the same. Safe to apply twice: the second
-- time they are not.
--
-- KEYS[1]  the progress hash of one user, as users.lua has it
-- ARGV[1]  name of the calling worker
-- ARGV[2]  every new revision is higher than this (storage/guarantees/epoch.py)
-- ARGV[3]  msgpack: {videoId, value as it was read ("" for none), record without its rev} for each
-- returns  msgpack: for each the value that is stored now, or false where another one was there; false alone where the
--          user's key or revision is not ours
--
-- Tells the other devices that there is something to read, as `Store.announce` does.

local key, changed, answer = KEYS[1], false, {}
local stored = redis.pcall('HGET', key, 'rev')
if type(stored) == 'table' and not string.find(stored.err, '^WRONGTYPE') then return stored end
local rev = type(stored) ~= 'table' and tonumber(stored or 0)
if not rev or not (rev >= 0 and rev < 2 ^ 53 - 2 ^ 32 and rev % 1 == 0) then return cmsgpack.pack(false) end
rev = math.max(rev, ARGV[2])
for i, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local video, was, record = item[1], item[2], item[3]
  answer[i] = false
  if (redis.call('HGET', key, video) or '') == was then
    rev, changed = rev + 1, true
    answer[i] = cmsgpack.pack(rev) .. record
    redis.call('HSET', key, video, answer[i])
  end
end
if changed then
  redis.call('HSET', key, 'rev', rev)
  redis.call('HDEL', key, 'trail') -- it begins anew with the next revision
  local channel = string.gsub(key, ':progress:', ':push:', 1)
  redis.call('SPUBLISH', channel, cmsgpack.pack({ ARGV[1], rev, rev, {} }))
end
return cmsgpack.pack(answer)
