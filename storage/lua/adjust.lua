-- Subtracts from the totals of a video what its recount found too much. Safe to repeat: repairs are numbered.
--
-- KEYS[1]  summary    KEYS[2]  curve    KEYS[3]  before (recount.lua)
-- ARGV[1]  token    ARGV[2]  number of this repair, from 0
-- ARGV[3]  msgpack { fields of the summary, fields of the curve }, each { field, by how much it is too large, … };
--          false: remove the field
-- ARGV[4]  1: this is the last repair, and the recount is over
-- returns  1; 0 if the recount was over before

local summary, curve, before = KEYS[1], KEYS[2], KEYS[3]

local token, number = ARGV[1], tonumber(ARGV[2])
local expires_ms = redis.call('PTTL', before)
local owner, made = string.match(redis.call('HGET', before, '') or '', '^(.*) (%d+)$')
if owner ~= token then return 0 end
if tonumber(made) > number then return 1 end
if redis.call('HGET', summary, 'recount') ~= token then return 0 end

for n, repairs in ipairs(cmsgpack.unpack(ARGV[3])) do
  local key = n == 1 and summary or curve
  for i = 1, #repairs, 2 do
    local field, by = repairs[i], repairs[i + 1]
    if not by or redis.call('HINCRBY', key, field, -by) == 0 then redis.call('HDEL', key, field) end
  end
end
if ARGV[4] == '1' then
  redis.call('DEL', before)
  redis.call('HDEL', summary, 'recount')
end
redis.call('HSET', before, '', token .. ' ' .. (number + 1))
redis.call('PEXPIRE', before, expires_ms)
return 1
