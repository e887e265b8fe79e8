-- A job as JSON: what it was made with, and what came of it. 'null' for one that nobody recorded.
local STORY = {
  'data',
  'state',
  'ready_at',
  'started_at',
  'finished_at',
  'result_until',
  'deliveries',
  'losses',
  'attempts',
  'refusals',
  'dead',
  'cancel',
  'worker',
  'progress',
  'error',
}

local function quoted(text)
  return text and cjson.encode(text) or 'null'
end

-- The history of its attempts stands at the end, for those who want it: lists do without.
local function story_of(id, with_history)
  local found = redis.call('HMGET', key('job', id), unpack(STORY))
  if not found[1] then
    return 'null'
  end
  local result = false
  if not found[6] or tonumber(found[6]) > now then
    result = redis.call('GET', key('result', id))
  end
  local words = { found[1], quoted(found[2]) }
  for n = 3, 12 do
    words[n] = found[n] or (n < 7 and 'null' or '0')
  end
  for n = 13, 15 do
    words[n] = quoted(found[n])
  end
  words[16] = quoted(result)
  words[17] = quoted(with_history and redis.call('HGET', key('job', id), 'history'))
  return '[' .. table.concat(words, ',') .. ']'
end
