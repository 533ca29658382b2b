-- Give a learner a revision that is no lower than those of their records. Safe to apply twice.
--
-- KEYS[1]  the progress hash of one user, as users.lua has it    ARGV[1]  the highest revision of its records
-- returns  1 where it had none of ours, or a lower one; else 0

local rev = tonumber(redis.call('HGET', KEYS[1], 'rev') or 0)
if rev and rev >= tonumber(ARGV[1]) and rev <= 2 ^ 53 - 2 ^ 32 and rev % 1 == 0 then return 0 end
redis.call('HSET', KEYS[1], 'rev', ARGV[1])
redis.call('HDEL', KEYS[1], 'trail') -- it begins anew with the next revision
return 1
