-- What changed in some users' records after a revision: of each user all of it, or a slice where there is much to look at.
--
-- KEYS[i]  the progress hash of user i, as users.lua has it
-- ARGV     for each key three: the revision that its reader has, -1 for none; the cursor of the slice, "0" to begin; and
--          about how many records to look at, fewer where they are large
-- returns  for each key {rev, cursor, fields, server, video, value, …}, in no order; {} where the key is not ours
--          cursor: "0" where no slice follows    fields: about how many records there are to look at, in all slices
--          server: its run_id, "" where the first slice is all there is: a cursor means nothing to another server
--          value: a longer one than LARGE as {its first bytes, its length}, so that a slice has a bound in bytes
--
-- The rev of the first slice is the reader's: what changes while the others are read has a higher one.

local LARGE, HEAD, MAX_REV = 2048, 32, 2 ^ 53 - 2 ^ 32
local STEP, MAX_BYTES = 25, 262144 -- records that are looked at together; bytes after which a slice takes no more

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

-- Of which videos the revisions after `since` were; nil where the trail does not go back so far, or is none of ours.
local function on_trail(trail, since, rev)
  local videos, told, at, newer = {}, {}, 1, rev + 1
  while true do
    local from, to, video, first = string.find(trail, '^([^,;]+),(%d+);', at)
    first = tonumber(first)
    if not from or first >= newer then return nil end
    if not told[video] then
      told[video] = true
      videos[#videos + 1] = video
    end
    at, newer = to + 1, first
    if first <= since + 1 then
      local older = tonumber(string.match(trail, '^[^,;]+,(%d+);', at) or -1)
      return older < newer and videos or nil
    end
  end
end

-- Some records: {videoId, value, …}
local function records(key, videos)
  local values, out = redis.call('HMGET', key, unpack(videos)), {}
  for i, video in ipairs(videos) do out[2 * i - 1], out[2 * i] = video, values[i] end
  return out
end

-- {where to go on, {videoId, value, …}}: about `count` records, fewer where they are large.
local function slice(key, cursor, count)
  local found, n, bytes = {}, 0, 0
  repeat
    local some = redis.call('HSCAN', key, cursor, 'COUNT', STEP)
    cursor = some[1]
    for _, part in ipairs(some[2]) do
      n, bytes = n + 1, bytes + #part
      found[n] = part
    end
  until cursor == '0' or n >= 2 * count or bytes >= MAX_BYTES
  return { cursor, found }
end

local run_id
local function server()
  run_id = run_id or string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  return run_id
end

local function changes(key, since, cursor, count)
  local head = redis.pcall('HMGET', key, 'rev', 'trail')
  local rev = not head.err and tonumber(head[1] or 0)
  if not rev or not (rev >= 0 and rev <= MAX_REV and rev % 1 == 0) then return {} end
  local out, n = { rev, '0', 0, '' }, 4
  if rev == since then return out end
  local videos, found = cursor == '0' and on_trail(head[2] or '', since, rev), nil
  if videos then
    found = records(key, videos)
    out[3] = #videos
  else
    out[2], found = unpack(slice(key, cursor, count))
    out[3] = #found / 2
    if cursor ~= '0' or out[2] ~= '0' then out[3], out[4] = redis.call('HLEN', key), server() end
  end
  for i = 1, #found, 2 do
    local video, value = found[i], found[i + 1]
    if value and video ~= 'rev' and video ~= 'trail' then
      local record_rev = rev_of(value)
      if not (record_rev and record_rev >= 0 and record_rev <= since) then -- what is no revision is read, and told
        if #value > LARGE then value = { string.sub(value, 1, HEAD), #value } end
        out[n + 1], out[n + 2], n = video, value, n + 2
      end
    end
  end
  return out
end

local answer = {}
for i, key in ipairs(KEYS) do
  answer[i] = changes(key, tonumber(ARGV[3 * i - 2]), ARGV[3 * i - 1], tonumber(ARGV[3 * i]))
end
return answer
