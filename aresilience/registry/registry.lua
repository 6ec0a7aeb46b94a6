-- A service's instances: the twin of machine.py; same numbers.
--
-- KEYS     five for each entry: meta (hash), records (hash), ends, changed, gone (sorted sets)
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  the time in microseconds; 0: the server's
-- ARGV[3]  how long to keep keys that nobody uses any more, in milliseconds
-- ARGV     then for each entry its verb and, by verb
--            r  channel, id, token, ttl (microseconds), 1 to take over, value
--            b  (a beat) id, token, ttl
--            w  channel, id, token
--            l  channel, since, base, most
-- returns  nonce, then for each entry
--            r  {1 if ours, generation}
--            b  1 if renewed
--            w  1 if withdrawn
--            l  {full, more, revision, digest, soonest, then for each change id, generation, revision, value,
--                why}
--
-- meta: revision, floor, digest, longest. A record is '<token>|<generation>|<value>' of who lives, 'withdrawn' or
-- 'expired' of who is gone. Told on the channel: '<revision before>|<revision>|<id>|<generation>|<value>' of one
-- who lives, '<before>|<revision>|<id>|<why>' of one who is gone, nothing ('') where it would be too much.

local PART, SUM = 4294967296, 281474976710656
local REMEMBERED, SWEPT, TOLD = 1000, 1000, 32
local call, max = redis.call, math.max
local function int(x) return string.format('%.0f', x) end

local now = tonumber(ARGV[2])
if now == 0 then
  local t = call('TIME')
  now = t[1] * 1000000 + t[2]
end
local kept = ARGV[3]

local function service(k)
  local s = {meta = KEYS[k], records = KEYS[k + 1], ends = KEYS[k + 2], changed = KEYS[k + 3], gone = KEYS[k + 4]}
  local m = call('HMGET', s.meta, 'revision', 'floor', 'digest', 'longest')
  s.is = m[1] ~= false
  s.revision, s.floor = tonumber(m[1] or now), tonumber(m[2] or now)
  s.digest, s.longest = tonumber(m[3] or 0), tonumber(m[4] or 0)
  return s
end

local function save(s)
  call('HSET', s.meta, 'revision', int(s.revision), 'floor', int(s.floor), 'digest', int(s.digest),
    'longest', int(s.longest))
end

local function keep(s)
  for _, key in pairs({s.meta, s.records, s.ends, s.changed, s.gone}) do call('PEXPIRE', key, kept) end
end

-- The clock went back: nobody lives longer, from now, than the longest life that was asked for.
local function follow(s)
  local last = int(now + s.longest)
  while true do
    local late = call('ZRANGEBYSCORE', s.ends, '(' .. last, '+inf', 'LIMIT', 0, 500)
    if #late == 0 then return end
    for _, id in ipairs(late) do call('ZADD', s.ends, last, id) end
  end
end

local function parted(record)
  local token, generation, value = string.match(record, '^([^|]*)|(%d+)|(.*)$')
  if not token then return nil end
  return token, tonumber(generation), value
end

local function find(s, id)
  local ends = call('ZSCORE', s.ends, id)
  if not ends then return nil end
  local record = call('HGET', s.records, id)
  if not record then return nil end
  local token, generation, value = parted(record)
  if not token then return nil end
  return {token = token, generation = generation, value = value, ends = tonumber(ends)}
end

local function change(s)
  s.revision = max(s.revision + 1, now)
  return s.revision
end

local function drop(s, id)
  local old = call('ZSCORE', s.changed, id)
  if old then
    s.digest = (s.digest - tonumber(old) % PART) % SUM
    call('ZREM', s.changed, id)
  end
  call('ZREM', s.ends, id)
end

local function finish(s, id, why)
  drop(s, id)
  local revision = int(change(s))
  call('ZADD', s.gone, revision, id)
  call('HSET', s.records, id, why)
  return revision
end

local function forget(s)
  local many = call('ZCARD', s.gone) - max(REMEMBERED, call('ZCARD', s.ends))
  while many > 0 do
    local oldest = call('ZPOPMIN', s.gone, math.min(many, 500))
    for i = 1, #oldest, 2 do
      s.floor = tonumber(oldest[i + 1])
      call('HDEL', s.records, oldest[i])
    end
    many = many - #oldest / 2
  end
end

local verbs = {}

function verbs.r(s, a)
  local channel, id, token, ttl, takeover, value = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  follow(s)
  local old = find(s, id)
  if old and old.token ~= token and old.ends > now and takeover ~= '1' then
    return {0, old.generation}, 6
  end
  s.longest = max(s.longest, tonumber(ttl))
  local generation
  if old and old.token == token and old.value == value then
    generation = old.generation
    call('ZADD', s.ends, int(now + ttl), id)
    save(s)
  else
    local before = s.revision
    local revision = change(s)
    generation = (old and old.token == token) and old.generation or revision
    call('ZREM', s.gone, id)
    drop(s, id)
    s.digest = (s.digest + revision % PART) % SUM
    call('HSET', s.records, id, token .. '|' .. int(generation) .. '|' .. value)
    call('ZADD', s.changed, int(revision), id)
    call('ZADD', s.ends, int(now + ttl), id)
    save(s)
    call('PUBLISH', channel, table.concat({int(before), int(revision), #id .. ':' .. id, int(generation), value}, '|'))
  end
  keep(s)
  return {1, generation}, 6
end

function verbs.b(s, a)
  local id, token, ttl = ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  if not s.followed then
    follow(s)
    s.followed = true
  end
  local old = find(s, id)
  if not old or (token ~= '' and token ~= old.token) then return 0, 3 end
  call('ZADD', s.ends, int(now + ttl), id)
  if ttl > s.longest then
    s.longest = ttl
    save(s)
  end
  if not s.kept then
    keep(s)
    s.kept = true
  end
  return 1, 3
end

function verbs.w(s, a)
  local channel, id, token = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  follow(s)
  local old = find(s, id)
  if not old or (token ~= '' and token ~= old.token) then return 0, 3 end
  local before = s.revision
  local revision = finish(s, id, 'withdrawn')
  forget(s)
  save(s)
  keep(s)
  call('PUBLISH', channel, table.concat({int(before), revision, #id .. ':' .. id, 'withdrawn'}, '|'))
  return 1, 3
end

function verbs.l(s, a)
  local channel, since, base, most = ARGV[a], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if not s.is then return {1, 0, 0, 0, -1}, 4 end
  follow(s)
  local over = call('ZRANGEBYSCORE', s.ends, '-inf', int(now), 'LIMIT', 0, SWEPT)
  if #over > 0 then
    for n, id in ipairs(over) do
      local before = s.revision
      local revision = finish(s, id, 'expired')
      if #over <= TOLD then
        call('PUBLISH', channel, table.concat({int(before), revision, #id .. ':' .. id, 'expired'}, '|'))
      end
    end
    forget(s)
    save(s)
    if #over > TOLD then call('PUBLISH', channel, '') end
  end
  local full = base < s.floor or base > s.revision
  local from = full and '-inf' or '(' .. int(since)
  local found = {}
  local function add(key, lives)
    local ids = call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
    for i = 1, #ids, 2 do found[#found + 1] = {ids[i], tonumber(ids[i + 1]), lives} end
  end
  add(s.changed, true)
  if not full then add(s.gone, false) end
  table.sort(found, function(x, y) return x[2] < y[2] end)
  local first = call('ZRANGE', s.ends, 0, 0, 'WITHSCORES')
  local soonest = -1
  if first[1] then soonest = max(0, tonumber(first[2]) - now) end
  local answer = {full and 1 or 0, #found > most and 1 or 0, s.revision, s.digest, soonest}
  for n = 1, math.min(#found, most), 100 do
    local ids = {}
    for i = n, math.min(n + 99, #found, most) do ids[#ids + 1] = found[i][1] end
    local records = call('HMGET', s.records, unpack(ids))
    for i, id in ipairs(ids) do
      local each, record = found[n + i - 1], records[i] or ''
      local token, generation, value = parted(record)
      answer[#answer + 1] = id
      answer[#answer + 1] = each[3] and generation or 0
      answer[#answer + 1] = each[2]
      answer[#answer + 1] = each[3] and value or ''
      answer[#answer + 1] = each[3] and '' or record
    end
  end
  return answer, 4
end

local answers, services, a = {tonumber(ARGV[1])}, {}, 4
for k = 1, #KEYS, 5 do
  local s = services[KEYS[k]]
  if not s then
    s = service(k)
    services[KEYS[k]] = s
  end
  local answer, read = verbs[ARGV[a]](s, a + 1)
  answers[#answers + 1] = answer
  a = a + 1 + read
end
return answers
