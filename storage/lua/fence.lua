-- Counts a commit of one process, unless the count has fallen behind what that process knows: see storage/guarantees/fences.py.
-- Safe to apply twice: what was lost is told each time, until it is asked with another ARGV[1].
--
-- KEYS[1]  the count    ARGV[1]  the highest count that was answered    ARGV[2]  ms that it is kept
-- returns  the new count; -1 where it is behind; -2 where it was no count, and counts on from ARGV[1]: a store that has
--          gone back in time holds an older count, or none

local known = tonumber(ARGV[1])
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' and not string.find(stored.err, '^WRONGTYPE') then return stored end
if stored and (type(stored) == 'table' or #stored > 15 or not string.find(stored, '^%d+$')) then
  redis.call('SET', KEYS[1], known + 1, 'PX', ARGV[2])
  return -2
end
if tonumber(stored or 0) < known then return -1 end
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
