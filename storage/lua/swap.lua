-- Replaces records that a caller has read, each only if it has not changed since. Safe to repeat: the second time they have.
--
-- KEYS[1]  the progress hash of one user (progress.lua)
-- ARGV[1]  name of the calling worker
-- ARGV[2]  every new revision is higher than this (storage/guarantees/epoch.py)
-- ARGV[3]  msgpack { { videoId, value as it was read ("" for none), record without its revision }, … }
-- returns  msgpack: for each the value that is stored now, or false if it had changed; false alone if the user's key or
--          revision is not ours
--
-- Announces the new revision to the learner's devices, as `Store.announce` does.

local key, changed, answer = KEYS[1], false, {}
local stored = redis.pcall('HGET', key, 'rev')
if type(stored) == 'table' and not string.find(stored.err, '^WRONGTYPE') then return stored end
local rev = type(stored) ~= 'table' and read_rev(stored)
if not rev then return cmsgpack.pack(false) end
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
  redis.call('HDEL', key, 'trail') -- it starts again with the next revision
  publish(channel_of(key), ARGV[1], rev, rev, {})
end
return cmsgpack.pack(answer)
