-- The ids of what is open.
--
-- KEYS[1]  what is open
-- ARGV[1]  nonce, returned as the first item
-- returns  nonce, and the ids

local reply = redis.call('ZRANGE', KEYS[1], 0, -1)
table.insert(reply, 1, tonumber(ARGV[1]))
return reply
