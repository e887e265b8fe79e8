#!lua flags=no-writes
-- ARGV: prefix, ids. Returns a JSON list of these jobs, null for one that nobody recorded.
-- With: story.

local answer = {}
for n = 2, #ARGV do
  answer[n - 1] = story_of(ARGV[n], true)
end
return '[' .. table.concat(answer, ',') .. ']'
