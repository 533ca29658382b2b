-- What changed in some users' records after a revision, of each user as one snapshot.
--
-- KEYS[i]  the progress hash of user i    ARGV[i]  the revision that its reader has, -1 for none
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

local function changes(key, since)
  local stored = redis.pcall('HGET', key, 'rev')
  local rev = type(stored) ~= 'table' and tonumber(stored or 0)
  if not rev then return {} end
  local out, n = { rev }, 1
  if rev == since then return out end
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    if all[i] ~= 'rev' then
      local value = all[i + 1]
      local record_rev = rev_of(value)
      if not record_rev or record_rev > since then
        out[n + 1], out[n + 2], n = all[i], value, n + 2
      end
    end
  end
  return out
end

local answer = {}
for i, key in ipairs(KEYS) do answer[i] = changes(key, tonumber(ARGV[i])) end
return answer
