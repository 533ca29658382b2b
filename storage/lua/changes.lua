-- What changed in some users' records after a revision, of each user as one snapshot.
--
-- KEYS[i]  the progress hash of user i, as users.lua has it    ARGV[i]  the revision that its reader has, -1 for none
-- returns  for each key {rev, videoId, value, videoId, value, …}, in no order; {} where the key is not ours

-- The rev that a value begins with, read from its bytes: a third of what unpack_one costs; nil where it is none.
local function rev_of(value)
  local a, b, c, d, e = string.byte(value, 1, 5)
  if not a then return nil end
  if a < 0x80 then return a end
  if a == 0xcc then return b end
  if a == 0xcd then return c and b * 0x100 + c end
  if a == 0xce then return e and b * 0x1000000 + c * 0x10000 + d * 0x100 + e end
  local ok, _, rev = pcall(cmsgpack.unpack_one, value)
  return ok and type(rev) == 'number' and rev or nil
end

-- Of which videos the revisions after `since` were; nil where the trail does not go back so far.
local function on_trail(trail, since)
  local videos, told = {}, {}
  for video, first in string.gmatch(trail, '([^,;]+),(%d+);') do
    if not told[video] then
      told[video] = true
      videos[#videos + 1] = video
    end
    if tonumber(first) <= since + 1 then return videos end
  end
end

-- Some records, or all there are: {videoId, value, …}
local function records(key, videos)
  if not videos then return redis.call('HGETALL', key) end
  local values, out = redis.call('HMGET', key, unpack(videos)), {}
  for i, video in ipairs(videos) do out[2 * i - 1], out[2 * i] = video, values[i] end
  return out
end

local function changes(key, since)
  local head = redis.pcall('HMGET', key, 'rev', 'trail')
  local rev = not head.err and tonumber(head[1] or 0)
  if not rev then return {} end
  local out, n = { rev }, 1
  if rev == since then return out end
  local found = records(key, on_trail(head[2] or '', since))
  for i = 1, #found, 2 do
    local video, value = found[i], found[i + 1]
    if value and video ~= 'rev' and video ~= 'trail' then
      local record_rev = rev_of(value)
      if not record_rev or record_rev > since then
        out[n + 1], out[n + 2], n = video, value, n + 2
      end
    end
  end
  return out
end

local answer = {}
for i, key in ipairs(KEYS) do answer[i] = changes(key, tonumber(ARGV[i])) end
return answer
