-- The names of services: remembered for as long as they are said, and one day.
--
-- KEYS[1]  the names (sorted set, by when they were last said, in milliseconds)
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  how long to remember, in milliseconds
-- ARGV     then the names that are said now; none: only list them
-- returns  nonce, then, if none was said, the names

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if #ARGV == 2 then
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('%.0f', now - ARGV[2]), '+inf')
  table.insert(found, 1, tonumber(ARGV[1]))
  return found
end
for n = 3, #ARGV do redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[n]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {tonumber(ARGV[1])}
