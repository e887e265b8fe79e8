#!lua flags=no-writes
-- Find out what the user of this connection may not do. Nothing is done: Redis only looks it up.
-- ARGV: a JSON object of lists: `keyed`, commands that take one key; `keys`; `others`, whole
-- commands as lists of words. Returns a JSON list of denied [command, key or word], or null where
-- Redis is too old to say.
--
-- Each command must be complete: Redis 7.0 crashes when it looks for the keys of one that is not.

if not redis.acl_check_cmd then
  return 'null'
end

local function may(...)
  local known, allowed = pcall(redis.acl_check_cmd, ...)
  return known and allowed
end

local asked = cjson.decode(ARGV[1])
local denied = {}
for _, command in ipairs(asked.keyed) do
  for _, key in ipairs(asked.keys) do
    if not may(command, key) then
      denied[#denied + 1] = { command, key }
    end
  end
end
for _, words in ipairs(asked.others) do
  if not may(unpack(words)) then
    denied[#denied + 1] = { words[1], words[2] or '' }
  end
end
return #denied == 0 and '[]' or cjson.encode(denied)
