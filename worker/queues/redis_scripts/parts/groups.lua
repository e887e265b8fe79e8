-- What is done to a sorted set job by job is collected, and made by flush() in few commands. A script
-- that reads such a set calls it first.

local added, removed, sums = {}, {}, { counts = {}, dead_counts = {} }

local function add(set, score, member)
  local list = added[set] or {}
  added[set] = list
  list[#list + 1] = score
  list[#list + 1] = member
end

local function remove(set, member)
  local list = removed[set] or {}
  removed[set] = list
  list[#list + 1] = member
end

local function count(hash, field, number)
  sums[hash][field] = (sums[hash][field] or 0) + number
end

local function send(command, lists)
  for set, list in pairs(lists) do
    for first = 1, #list, PORTION do
      redis.call(command, set, unpack(list, first, math.min(first + PORTION - 1, #list)))
    end
  end
end

local function flush()
  send('ZREM', removed)
  send('ZADD', added)
  added, removed = {}, {}
  for hash, fields in pairs(sums) do
    for field, number in pairs(fields) do
      if number ~= 0 and redis.call('HINCRBY', key(hash), field, number) == 0 then
        redis.call('HDEL', key(hash), field)
      end
    end
    sums[hash] = {}
  end
end

-- Have it counted under another state, and stand among those that wait since a moment, or not.
local function enters(job, state, since)
  local field = state .. ' ' .. job.group
  count('counts', field, 1)
  if since then
    add(key('waiting', field), exact(since), job.id)
  end
  job.state = state
end

local function leaves(job)
  local field = job.state .. ' ' .. job.group
  count('counts', field, -1)
  remove(key('waiting', field), job.id)
end
