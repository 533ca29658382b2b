-- Counts a commit of one process, unless the count has fallen behind what that process knows: see storage/fences.py.
-- Safe to apply twice: what was lost is told each time, until it is asked with another ARGV[1].
--
-- KEYS[1]  the count    ARGV[1]  the highest count that was answered    ARGV[2]  ms that it is kept
-- returns  the new count; -1 where it is behind

if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then return -1 end
local count = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return count
