-- Push messages as storage/values/push_messages.py reads them.

-- The channel of a learner's changes, from the key of the learner's progress; storage/keys.py gives it the same name.
local function channel_of(key)
  return (string.gsub(key, ':progress:', ':push:', 1))
end

-- records: { { videoId, value }, … } of all that changed after revision `before`, or {}: then each device reads them.
local function publish(channel, worker, before, rev, records)
  redis.call('SPUBLISH', channel, cmsgpack.pack({ worker, before, rev, records }))
end
