-- The totals of a video that callers without the scope `analytics` are shown: see storage/released.py.
-- Safe to apply twice: what was released stays until the audience has grown again.
--
-- KEYS[1]  released: hash of viewers, completed, watched
-- ARGV[1]  viewers now    ARGV[2]  completed now    ARGV[3]  seconds watched now    ARGV[4]  viewers of a batch
-- returns  {viewers, completed, watched} as released; nothing where none are, or the key is of another type

local TOTALS = { 'viewers', 'completed', 'watched' }
local viewers, batch = tonumber(ARGV[1]), tonumber(ARGV[4])
local had = redis.pcall('HMGET', KEYS[1], unpack(TOTALS))
if had.err then return {} end
if viewers == 0 then
  if had[1] then redis.call('HDEL', KEYS[1], unpack(TOTALS)) end
  return {}
end
if viewers >= (tonumber(had[1]) or 0) + batch then
  redis.call('HSET', KEYS[1], 'viewers', viewers, 'completed', ARGV[2], 'watched', ARGV[3])
  return { viewers, tonumber(ARGV[2]), tonumber(ARGV[3]) }
end
for i = 1, 3 do had[i] = tonumber(had[i]) end
return #had == 3 and viewers >= batch and had or {}
