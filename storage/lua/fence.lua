-- Counts a commit of one process, unless the stored count is lower than one that the process has received: see
-- storage/guarantees/fences.py. Safe to repeat: a loss is reported until a call comes with another ARGV[1].
--
-- KEYS[1]  the count    ARGV[1]  the highest count that the process has received    ARGV[2]  ms that the count is kept
-- returns  the new count; BEHIND if the stored one is lower, or missing: the store was rolled back; NO_COUNT if it was
--          not a count, and is continued from ARGV[1]

local known = tonumber(ARGV[1])
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' and not string.find(stored.err, '^WRONGTYPE') then return stored end
if stored and (type(stored) == 'table' or #stored > 15 or not string.find(stored, '^%d+$')) then
  redis.call('SET', KEYS[1], known + 1, 'PX', ARGV[2])
  return NO_COUNT
end
if tonumber(stored or 0) < known then return BEHIND end
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
