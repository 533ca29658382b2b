-- Gives a learner a revision that is at least as high as those of their records. Safe to repeat.
--
-- KEYS[1]  the progress hash of one user (progress.lua)    ARGV[1]  the highest revision of its records
-- returns  1 if the stored revision was lower, or not ours; else 0

local rev = read_rev(redis.call('HGET', KEYS[1], 'rev'))
if rev and rev >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'rev', ARGV[1])
redis.call('HDEL', KEYS[1], 'trail') -- it starts again with the next revision
return 1
