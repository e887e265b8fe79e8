#!lua flags=no-writes
-- List jobs, those created last first: one portion of them.
-- ARGV: prefix, how many at most, lowest and highest score (minus the moment of creation), how many
-- of the lowest score to pass over; then '' or what it must be: queue, task, '1' or '0' for dead;
-- then states, none for any. Returns a JSON list: whether that was all, the score and the number to
-- go on with, how many jobs in all are in such queues, tasks and states, and the jobs.
-- With: story.

local most, lowest, highest, passed = tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local queue, task, dead = ARGV[6], ARGV[7], ARGV[8]
local states, any = {}, #ARGV < 9
for n = 9, #ARGV do
  states[ARGV[n]] = true
end

local function fits(state, group)
  local its_queue, its_task = group:match('^(%S+) (.*)$')
  return (queue == '' or queue == its_queue)
    and (task == '' or task == its_task)
    and (any or states[state])
end

local expected, counts = 0, redis.call('HGETALL', key('counts'))
for n = 1, #counts, 2 do
  local state, group = counts[n]:match('^(%S+) (.*)$')
  if fits(state, group) then
    expected = expected + tonumber(counts[n + 1])
  end
end

local set = key(dead == '1' and 'dead' or 'created')
local found = redis.call(
  'ZRANGEBYSCORE', set, lowest, highest, 'WITHSCORES', 'LIMIT', passed, PORTION
)
local last, answer = lowest, {}
local over = #found < 2 * PORTION
for n = 1, #found, 2 do
  local id, score = found[n], found[n + 1]
  passed = score == last and passed + 1 or 1
  last = score
  local state, group, is_dead = unpack(redis.call('HMGET', key('job', id), 'state', 'group', 'dead'))
  if state and fits(state, group) and (dead == '' or (dead == '1') == (is_dead == '1')) then
    answer[#answer + 1] = story_of(id)
    if #answer == most then
      over = over and n == #found - 1
      break
    end
  end
end
local head = { over and '1' or '0', quoted(last), passed, expected }
return '[' .. table.concat(head, ',') .. ',[' .. table.concat(answer, ',') .. ']]'
