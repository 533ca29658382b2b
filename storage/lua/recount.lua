-- Sums a part of the audience of a video as it was when the first part was summed; storage/maintenance/recount.py explains
-- how. Safe to repeat.
--
-- KEYS[1]  audience: userId -> entry (entry.lua)    KEYS[2]  summary; its field "recount" holds the token of the recount
-- KEYS[3]  curve                                    KEYS[4]  before: userId -> its entry when the recount began ("" for
--                                                   none), of those that have changed since; "" -> token and repairs made
-- ARGV[1]  token    ARGV[2]  cursor, "" for the first part    ARGV[3]  about how many bytes of entries to sum
-- ARGV[4]  1: mark the video even if all of it is summed at once, because it is going to be repaired
-- ARGV[5]  ms after which a recount that does not go on is abandoned
-- returns  msgpack { cursor, entries summed, { viewers, completed, watched }, seen, again }, seen and again as difference
--          arrays { second, by, … }; for the first part also { …, size of the audience, summary, curve }, the last two as
--          HGETALL returns them; false if this recount is over. cursor "0": everything is summed.

local audience, summary, curve, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, budget, pause_ms = ARGV[1], tonumber(ARGV[3]), ARGV[5]
local begin, cursor = ARGV[2] == '', ARGV[2]
local STEP, OVERHEAD = 4, 30 -- entries of one HSCAN; bytes that an entry counts beside its own

if begin then
  cursor = '0'
elseif redis.call('HGET', summary, 'recount') ~= token or redis.call('PEXPIRE', before, pause_ms) == 0 then
  return false
end

local viewers, completed, watched, summed, seen_steps, again_steps = 0, 0, 0, 0, {}, {}

repeat
  local page = redis.call('HSCAN', audience, cursor, 'COUNT', STEP)
  cursor = page[1]
  local entries = page[2]
  for i = 1, #entries, 2 do
    local entry = not begin and redis.call('HGET', before, entries[i]) or entries[i + 1]
    if entry ~= '' then
      summed, budget = summed + 1, budget - #entry - OVERHEAD
      local sound, its_watched, its_completed, seen, again = pcall(unpack_entry, entry)
      if sound then
        if its_watched > 0 then viewers = viewers + 1 end
        watched, completed = watched + its_watched, completed + its_completed
        add_steps(seen_steps, seen, 1, 1)
        add_steps(again_steps, again, 1, 1)
      end
    end
  end
until cursor == '0' or budget <= 0

local function flat(steps)
  local out, n = {}, 0
  for second, by in pairs(steps) do
    if by ~= 0 then out[n + 1], out[n + 2], n = second, by, n + 2 end
  end
  return out
end

local answer = { cursor, summed, { viewers, completed, watched }, flat(seen_steps), flat(again_steps) }
if begin then
  answer[6] = redis.call('HLEN', audience)
  answer[7], answer[8] = redis.call('HGETALL', summary), redis.call('HGETALL', curve)
  if cursor ~= '0' or ARGV[4] == '1' then
    redis.call('DEL', before)
    redis.call('HSET', before, '', token .. ' 0')
    redis.call('PEXPIRE', before, pause_ms)
    redis.call('HSET', summary, 'recount', token)
  end
end
return cmsgpack.pack(answer)
