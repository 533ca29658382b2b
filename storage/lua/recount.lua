-- Sum a part of the audience of a video as it was when the first part was summed; storage/maintenance/recount.py has the reasoning.
-- Safe to apply twice.
--
-- KEYS[1]  audience: userId -> entry    KEYS[2]  summary, in it "recount": the token of who recounts
-- KEYS[3]  curve                        KEYS[4]  before: userId -> its entry when the recount began ("" for none),
--                                                of those that have changed since; "" -> token and repairs made
-- ARGV[1]  token    ARGV[2]  cursor, "" to begin    ARGV[3]  bytes of entries to sum, about
-- ARGV[4]  1: mark the video also where all of it is summed at once, because it is to be mended
-- ARGV[5]  ms that a recount may pause before it is over
-- returns  msgpack {cursor, entries summed, {viewers, completed, watched}, seen, again}, seen and again difference
--          arrays as {second, by, …}; at the beginning also {…, size of the audience, summary, curve}, those two as
--          HGETALL has them; false if this recount is over. cursor "0": all is summed.

local audience, summary, curve, before = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, budget, pause = ARGV[1], tonumber(ARGV[3]), ARGV[5]
local begin, cursor = ARGV[2] == '', ARGV[2]
local AT_ONCE, OVERHEAD = 4, 30

if begin then
  cursor = '0'
elseif redis.call('HGET', summary, 'recount') ~= token or redis.call('PEXPIRE', before, pause) == 0 then
  return false
end

local viewers, completed, watched, summed, seen, again = 0, 0, 0, 0, {}, {}

local function add(points, set)
  for i = 1, #set, 2 do
    local from, to = set[i], set[i + 1]
    points[from] = (points[from] or 0) + 1
    points[to] = (points[to] or 0) - 1
  end
end

repeat
  local page = redis.call('HSCAN', audience, cursor, 'COUNT', AT_ONCE)
  cursor = page[1]
  local entries = page[2]
  for i = 1, #entries, 2 do
    local entry = not begin and redis.call('HGET', before, entries[i]) or entries[i + 1]
    if entry ~= '' then
      summed, budget = summed + 1, budget - #entry - OVERHEAD
      local ok, its_watched, its_completed, its_seen, its_again = pcall(read_entry, entry)
      if ok then
        if its_watched > 0 then viewers = viewers + 1 end
        watched, completed = watched + its_watched, completed + its_completed
        add(seen, its_seen)
        add(again, its_again)
      end
    end
  end
until cursor == '0' or budget <= 0

local function flat(points)
  local out, n = {}, 0
  for second, by in pairs(points) do
    if by ~= 0 then out[n + 1], out[n + 2], n = second, by, n + 2 end
  end
  return out
end

local answer = { cursor, summed, { viewers, completed, watched }, flat(seen), flat(again) }
if begin then
  answer[6] = redis.call('HLEN', audience)
  answer[7], answer[8] = redis.call('HGETALL', summary), redis.call('HGETALL', curve)
  if cursor ~= '0' or ARGV[4] == '1' then
    redis.call('DEL', before)
    redis.call('HSET', before, '', token .. ' 0')
    redis.call('PEXPIRE', before, pause)
    redis.call('HSET', summary, 'recount', token)
  end
end
return cmsgpack.pack(answer)
