-- The totals of a video that callers without the scope `analytics` are shown: see storage/read/released_totals.py.
-- Safe to apply twice: what was released stays until the audience has grown again.
--
-- KEYS[1]  released: hash of viewers, completed, watched
-- ARGV[1]  viewers now    ARGV[2]  completed now    ARGV[3]  seconds watched now    ARGV[4]  viewers of a batch
-- returns  {viewers, completed, watched} as released; nothing where none are, or the key is of another type. What is no
--          count is as if nothing had been released.

local TOTALS = { 'viewers', 'completed', 'watched' }
local viewers, batch = tonumber(ARGV[1]), tonumber(ARGV[4])
local had = redis.pcall('HMGET', KEYS[1], unpack(TOTALS))
if had.err then return {} end
local any = had[1] or had[2] or had[3]
for i = 1, 3 do
  local count = tonumber(had[i])
  if not count or not (count >= 0 and count < 2 ^ 53 and count % 1 == 0) then had = {} break end
  had[i] = count
end
if viewers == 0 then
  if any then redis.call('HDEL', KEYS[1], unpack(TOTALS)) end
  return {}
end
if viewers >= (had[1] or 0) + batch then
  redis.call('HSET', KEYS[1], 'viewers', viewers, 'completed', ARGV[2], 'watched', ARGV[3])
  return { viewers, tonumber(ARGV[2]), tonumber(ARGV[3]) }
end
return viewers >= batch and had or {}
