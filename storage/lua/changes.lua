-- What changed in a user's records after a revision, as one snapshot.
--
-- KEYS[1]  the user's progress hash    ARGV[1]  the revision that the reader has, -1 for none
-- returns  {rev, videoId, value, videoId, value, …}, in no order

local rev, since = tonumber(redis.call('HGET', KEYS[1], 'rev') or 0), tonumber(ARGV[1])
local out = { rev }
if rev == since then return out end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if all[i] ~= 'rev' then
    local ok, _, record_rev = pcall(cmsgpack.unpack_one, all[i + 1])
    if not ok or type(record_rev) ~= 'number' or record_rev > since then
      out[#out + 1] = all[i]
      out[#out + 1] = all[i + 1]
    end
  end
end
return out
