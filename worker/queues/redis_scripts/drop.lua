#!lua flags=allow-oom
-- Forget jobs that have ended.
-- ARGV: prefix, ids. Returns what became of each, in the words of worker.job.Requeued.
-- With: heads, groups, queues, keys, forget.

local answer = {}
for n = 2, #ARGV do
  local job = head_of(ARGV[n])
  local told = 'not_now'
  if not job then
    told = 'unknown'
  elseif not RUNNING[job.state] and not WAITING[job.state] then
    forget(job)
    told = 'done'
  end
  answer[n - 1] = told
end
finish()
return table.concat(answer, ' ')
