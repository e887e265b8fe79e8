local ended = {} -- the ids of jobs for whose end clients may wait

-- A final state, since now if no other moment is given. Dead letters stand apart, where prune does
-- not look.
local function conclude(job, state, dead, since)
  enters(job, state)
  if dead then
    add(key('dead'), redis.call('ZSCORE', key('created'), job.id), job.id)
    count('dead_counts', state .. ' ' .. job.group, 1)
  else
    add(key('finished'), since or NOW, job.id)
  end
  ended[#ended + 1] = job.id
end

-- Stands at the end of each script that concludes jobs; every step of it is optional. `watched` names the channels of the clients
-- that wait for one.
local function tell_watchers()
  if #ended == 0 or (try('EXISTS', key('watched')) or 0) == 0 then
    return
  end
  for first = 1, #ended, PORTION do
    local last = math.min(first + PORTION - 1, #ended)
    local found = try('HMGET', key('watched'), unpack(ended, first, last))
    for n, channels in ipairs(found or {}) do
      if channels then
        local id = ended[first + n - 1]
        try('HDEL', key('watched'), id)
        for channel in channels:gmatch('%S+') do
          try('PUBLISH', key('wake', channel), 'ended ' .. id)
        end
      end
    end
  end
end
