-- What the hash of a learner's progress holds beside the records: the field "rev", the learner's revision, and the field
-- "trail", which tells to which video each of the newest revisions belongs.
--
-- A trail reads "video,first revision;…", newest first, and consecutive revisions of one video are one run. So a device that
-- is a few revisions behind is served without looking at every record. It is written when the learner goes to another
-- video, not at each heartbeat.

local MAX_TRAIL = 1600
local COMMA = 0x2c
local byte, find, match, sub, tonumber = string.byte, string.find, string.match, string.sub, tonumber

-- The revision that field "rev" holds, 0 for none; nil if we did not write it.
local function read_rev(stored)
  local rev = tonumber(stored or 0)
  return rev and rev >= 0 and rev <= MAX_REV and rev % 1 == 0 and rev or nil
end

-- The trail after this revision of this video.
local function add_to_trail(trail, video, rev)
  if byte(trail, #video + 1) == COMMA and sub(trail, 1, #video) == video then return trail end
  trail = video .. ',' .. rev .. ';' .. trail
  return #trail > MAX_TRAIL and match(sub(trail, 1, MAX_TRAIL), '^.*;') or trail
end

-- The videos of the revisions after `since`; nil if the trail does not go back that far, or we did not write it.
local function videos_on_trail(trail, since, rev)
  local videos, known, at, newer = {}, {}, 1, rev + 1
  while true do
    local from, to, video, first = find(trail, '^([^,;]+),(%d+);', at)
    first = tonumber(first)
    if not from or first >= newer then return nil end
    if not known[video] then
      known[video] = true
      videos[#videos + 1] = video
    end
    at, newer = to + 1, first
    if first <= since + 1 then
      local older = tonumber(match(trail, '^[^,;]+,(%d+);', at) or -1)
      return older < newer and videos or nil
    end
  end
end
