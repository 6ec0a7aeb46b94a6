-- Renew the leases of many claims: `renew` of record.py, for each.
--
-- KEYS     for each: the record, and what is open
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  for tests: the time in microseconds; 0: the server's
-- ARGV[3…] for each: token, microseconds of the lease, microseconds that the record outlives it, id
-- returns  nonce, and for each 1, or 0 if it is not this owner's any more

local function int(n) return string.format('%.0f', n) end

local now = tonumber(ARGV[2])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end

local reply = {tonumber(ARGV[1])}
for i = 1, #KEYS / 2 do
  local record, open, at = KEYS[2 * i - 1], KEYS[2 * i], 4 * i - 1
  local lease, keep = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local r = redis.call('HMGET', record, 's', 't', 'u', 'x')
  if r[1] == 'R' and r[2] == ARGV[at] and r[3] ~= '0' and now < tonumber(r[4]) then
    local expires = now + lease + keep
    redis.call('HSET', record, 'l', int(lease), 'u', int(now + lease), 'x', int(expires))
    redis.call('PEXPIRE', record, int(math.ceil((lease + keep) / 1000)))
    redis.call('ZADD', open, int(expires), ARGV[at + 3])
    local left = math.ceil((lease + keep) / 1000)
    if redis.call('PTTL', open) < left then
      redis.call('PEXPIRE', open, int(left))
    end
    reply[i + 1] = 1
  else
    reply[i + 1] = 0
  end
end
return reply
