-- Which records of some users changed after a revision: for each user all of them, or a slice if there are many to look at.
--
-- KEYS[i]  the progress hash of user i (progress.lua)
-- ARGV     three for each key: the revision that its reader has, -1 for none; the cursor of the slice, "0" for the first;
--          and about how many records to look at, fewer if they are large
-- returns  for each key { rev, cursor, fields, server, video, value, … }, in no order; {} if the key is not ours
--          cursor: "0" if no slice follows    fields: about how many records there are to look at, in all slices
--          server: its run_id, "" if the first slice is the only one: a cursor means nothing to another server
--          value: one longer than LARGE as { its first bytes, its length }, so that the bytes of a slice are bounded
--
-- The reader takes the rev of the first slice: records that change while the other slices are read have a higher one.

local LARGE = 2048
local STEP, MAX_BYTES = 25, 262144 -- records of one HSCAN; bytes after which a slice ends

-- The revision that a value starts with, read from its bytes, for a third of the cost of unpack_one; nil if there is none.
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

-- The records of these videos: { videoId, value, … }
local function records(key, videos)
  local values, out = redis.call('HMGET', key, unpack(videos)), {}
  for i, video in ipairs(videos) do out[2 * i - 1], out[2 * i] = video, values[i] end
  return out
end

-- { next cursor, { videoId, value, … } } of about `count` records, fewer if they are large.
local function slice(key, cursor, count)
  local found, n, bytes = {}, 0, 0
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', STEP)
    cursor = page[1]
    for _, part in ipairs(page[2]) do
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
  local stored = redis.pcall('HMGET', key, 'rev', 'trail')
  local rev = not stored.err and read_rev(stored[1])
  if not rev then return {} end
  local out, n = { rev, '0', 0, '' }, 4
  if rev == since then return out end
  local videos, found = cursor == '0' and videos_on_trail(stored[2] or '', since, rev), nil
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
      if not (record_rev and record_rev >= 0 and record_rev <= since) then -- damaged ones too: the reader reports them
        if #value > LARGE then value = { string.sub(value, 1, VALUE_HEAD), #value } end
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
