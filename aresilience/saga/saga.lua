-- Journals: many verbs for many sagas in one call. The twin of memory.py.
--
-- KEYS     for each entry four: the journal (a hash), and the sorted sets of ids: open (score: the end of the lease),
--          waiting for a person (since), ended (the end of retention)
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  the channel on which changes are told: '+' and the key if it may be claimed, '-' and the key if not
-- ARGV     then for each entry: number of arguments, verb, id, and the rest of the arguments; times in microseconds
--            0 begin   version, fingerprint, input, deadline, token, ttl, then name and payload of each fact
--            1 append  fence, state, keep, progress, least length, facts
--            2 claim   highest version, token, ttl
--            3 load
--            4 change  length, state, keep, facts
--            5 abort   reason
--            6 renew   fence, ttl
--            7 hand over  token
--            8 due     how many, how many to skip, ttl
-- returns  nonce, then for each entry
--            begin     {1, now, fence}, or {0, now, the hash}
--            append    {1, length, reason of an abort or ''}, {2, length, ''} if it is too short, or {0}
--            claim     {1, now, the hash}, or {0}
--            load      {1, now, the hash}, or {0}
--            change, abort, renew, hand over   1 or 0
--            due       ids
--          an error in place of an entry that cannot be done
--
-- The hash: i id, v version, p fingerprint, n input, d deadline, b began, s state, f fence, l end of the lease,
-- w ttl, q length, r recoveries, t 1 if handed over, o token, a reason of an abort; and 'j' and the name of each
-- fact: 'seq at payload'. An open one has no TTL.

local call = redis.call
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local channel = ARGV[2]
local OPEN = {running = true, compensating = true}
local WAITING = {stuck = true, parked = true}

local function int(x) return string.format('%.0f', x) end
local function get(key, field) return tonumber(call('HGET', key, field) or '0') end
local function gone() error({err = 'CORRUPT the journal of an open saga is gone'}) end

local function add(k, a, from)
  local seq = get(k.saga, 'q')
  local stamp = ' ' .. int(now) .. ' '
  for i = from, #a, 2 do
    local n = seq + 1
    if call('HSETNX', k.saga, 'j' .. a[i], int(n) .. stamp .. a[i + 1]) == 1 then seq = n end
  end
  call('HSET', k.saga, 'q', int(seq))
  return seq
end

local function set_of(k, state)
  return OPEN[state] and k.open or WAITING[state] and k.waiting or k.ended
end

local function move(k, id, old, new, keep)
  if old == new then return end
  call('HSET', k.saga, 's', new)
  local from, to = set_of(k, old), set_of(k, new)
  if from == to then return end
  call('ZREM', from, id)
  if to == k.ended then
    call('PEXPIRE', k.saga, int(math.max(1, math.ceil(keep / 1000))))
    call('ZADD', to, int(now + keep), id)
    call('ZREMRANGEBYSCORE', to, '-inf', int(now))
  else
    if from == k.ended then call('PERSIST', k.saga) end
    call('ZADD', to, int(now), id)
  end
  call('PUBLISH', channel, (to == k.open and '+' or '-') .. k.saga)
end

local verbs = {}

verbs['0'] = function(k, a)
  local id = a[2]
  local token = call('HGET', k.saga, 'o')
  if token == a[7] then return {1, now, get(k.saga, 'f')} end
  if call('EXISTS', k.saga) == 1 then return {0, now, call('HGETALL', k.saga)} end
  if call('ZSCORE', k.open, id) or call('ZSCORE', k.waiting, id) then gone() end
  call('HSET', k.saga, 'i', id, 'v', a[3], 'p', a[4], 'n', a[5], 'd', a[6], 'b', int(now), 's', 'running',
       'f', int(now), 'l', int(now + a[8]), 'w', a[8], 'r', '0', 'o', a[7])
  add(k, a, 9)
  call('ZREM', k.ended, id)                   -- of one of this id that is not kept any more
  call('ZADD', k.open, int(now + a[8]), id)
  return {1, now, now}
end

verbs['1'] = function(k, a)
  local known = call('HMGET', k.saga, 'f', 's', 'a')
  if not known[2] then gone() end
  if known[1] ~= a[3] then return {0} end
  local length = get(k.saga, 'q')
  if length < tonumber(a[7]) then return {2, length, ''} end
  length = add(k, a, 8)
  if a[6] == '1' then call('HSET', k.saga, 'r', '0') end
  move(k, a[2], known[2], a[4], tonumber(a[5]))
  return {1, length, known[3] or ''}
end

verbs['2'] = function(k, a)
  local id = a[2]
  local known = call('HMGET', k.saga, 's', 'l', 'w', 'v', 'f', 't')
  if not known[1] then
    if call('ZREM', k.open, id) == 1 then
      call('ZADD', k.waiting, int(now), id)   -- nobody begins it anew
      gone()
    end
    return {0}
  end
  local lease, ttl = tonumber(known[2]), tonumber(known[3])
  if lease > now + ttl then                   -- the clock went back
    lease = now + ttl
    call('HSET', k.saga, 'l', int(lease))
    call('ZADD', k.open, 'XX', int(lease), id)
  end
  if not OPEN[known[1]] or lease > now or tonumber(known[4]) > tonumber(a[3]) then return {0} end
  local fence = math.max(tonumber(known[5]) + 1, now)
  call('HSET', k.saga, 'f', int(fence), 'l', int(now + a[5]), 'w', a[5], 't', '0', 'o', a[4])
  if known[6] ~= '1' then call('HINCRBY', k.saga, 'r', 1) end
  add(k, {'recover:' .. int(fence) .. ':', ''}, 1)
  call('ZADD', k.open, int(now + a[5]), id)
  return {1, now, call('HGETALL', k.saga)}
end

verbs['3'] = function(k, a)
  local all = call('HGETALL', k.saga)
  if #all == 0 then return {0} end
  return {1, now, all}
end

verbs['4'] = function(k, a)
  local known = call('HMGET', k.saga, 'q', 's', 'f')
  if known[1] ~= a[3] then return 0 end
  call('HSET', k.saga, 'f', int(math.max(tonumber(known[3]) + 1, now)), 'l', '0', 't', '1', 'r', '0', 'o', '')
  add(k, a, 6)
  move(k, a[2], known[2], a[4], tonumber(a[5]))
  return 1
end

verbs['5'] = function(k, a)
  if call('HGET', k.saga, 's') ~= 'running' then return 0 end
  if call('HSETNX', k.saga, 'a', a[3]) == 1 then
    add(k, {'abort:0:', a[3]}, 1)
    call('PUBLISH', channel, '-' .. k.saga)
  end
  return 1
end

verbs['6'] = function(k, a)
  if call('HGET', k.saga, 'f') ~= a[3] then return 0 end
  call('HSET', k.saga, 'l', int(now + a[4]), 'w', a[4])
  call('ZADD', k.open, 'XX', int(now + a[4]), a[2])
  return 1
end

verbs['7'] = function(k, a)
  if call('HGET', k.saga, 'o') ~= a[3] then return 0 end
  call('HSET', k.saga, 'l', '0', 't', '1')
  if call('ZADD', k.open, 'XX', 'CH', int(now), a[2]) == 1 then call('PUBLISH', channel, '+' .. k.saga) end
  return 1
end

verbs['8'] = function(k, a)
  local far = int(now + a[5] + 1000000)
  for _, id in ipairs(call('ZRANGEBYSCORE', k.open, '(' .. far, '+inf', 'LIMIT', 0, 100)) do
    call('ZADD', k.open, int(now + a[5]), id)  -- the clock went back; `claim` knows better
  end
  return call('ZRANGEBYSCORE', k.open, '-inf', int(now), 'LIMIT', a[4], a[3])
end

local result, place, key = {tonumber(ARGV[1])}, 3, 1
while place <= #ARGV do
  local count, verb, a = tonumber(ARGV[place]), ARGV[place + 1], {}
  for i = 1, count do a[i] = ARGV[place + i] end
  local k = {saga = KEYS[key], open = KEYS[key + 1], waiting = KEYS[key + 2], ended = KEYS[key + 3]}
  local ok, said = pcall(verbs[verb], k, a)
  if not ok then
    if type(said) ~= 'table' then said = {err = tostring(said)} end
    said = redis.error_reply(said.err or 'ERR a saga script failed')
  end
  result[#result + 1] = said
  place, key = place + count + 1, key + 4
end
return result
