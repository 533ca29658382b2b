-- The totals of a video that are shown to callers without the scope `analytics`; see storage/read/released_totals.py.
-- Safe to repeat: the released totals stay until the audience has grown again.
--
-- KEYS[1]  released: hash of viewers, completed, watched
-- ARGV[1]  viewers now    ARGV[2]  completed now    ARGV[3]  seconds watched now    ARGV[4]  viewers of a batch
-- returns  { viewers, completed, watched } as released; {} if none are, or if the key has another type. Stored values that
--          are not counts are treated as if nothing had been released.

local TOTALS = { 'viewers', 'completed', 'watched' }
local viewers, batch = tonumber(ARGV[1]), tonumber(ARGV[4])
local released = redis.pcall('HMGET', KEYS[1], unpack(TOTALS))
if released.err then return {} end
local any = released[1] or released[2] or released[3]
for i = 1, 3 do
  local count = tonumber(released[i])
  if not count or not (count >= 0 and count <= MAX_SEQ and count % 1 == 0) then released = {} break end
  released[i] = count
end
if viewers == 0 then
  if any then redis.call('HDEL', KEYS[1], unpack(TOTALS)) end
  return {}
end
if viewers >= (released[1] or 0) + batch then
  redis.call('HSET', KEYS[1], 'viewers', viewers, 'completed', ARGV[2], 'watched', ARGV[3])
  return { viewers, tonumber(ARGV[2]), tonumber(ARGV[3]) }
end
return viewers >= batch and released or {}
