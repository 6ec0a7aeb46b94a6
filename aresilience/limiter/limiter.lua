-- Rate limits: many decisions in one call. The twin of decide.py and the four machines; same numbers.
--
-- KEYS     one key for each part of each entry, in order
-- ARGV[1]  nonce, returned as the first item
-- ARGV[2]  the time in microseconds; 0: the server's
-- ARGV     then for each entry four doubles in one string: mode, count, time, number of parts; and for
--          each part seven doubles in one string: algorithm, cost, limit, and
--            1 gcra            (limit: the scale) cost and burst in microseconds, each as whole and rest
--            2 fixed window    period
--            3 sliding window  period, step, steps
--            4 sliding log     period
--          modes: 0 acquire, `count` times the same, each at most `time` microseconds from now
--                 1 give back what was granted at `time`
--                 2 charge: take without asking
--                 3 a run: one bucket asked now or never for each of the next `count` keys; the second of its
--                   two strings has as many doubles, how many ask for each key, or is empty: one each
-- returns  nonce, then for each entry: {how many were granted, now, time of the grant or of the next one,
--          and three numbers of state for each part}; an error in place of an entry with a key that cannot be read;
--          for a run {now, three integers of eight bytes in a string for each key: how many were granted,
--          and the state, whole and rest; -1 granted for a corrupt key}
--
-- A value is a row of doubles: its state and, last, the time at which it was written. If that is in the
-- future the clock went back, and the state goes with it (and is written so even if nothing is granted).

local now = tonumber(ARGV[2])
local slack = 1
if now ~= 0 then
  slack = 3600000  -- in tests time stands still, but not for the server, which would expire the key
else
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local floor, max, pack, unpack, spread = math.floor, math.max, struct.pack, struct.unpack, unpack
local call, try = redis.call, redis.pcall

-- By far the most common entry, tokens of a bucket now or not at all, for many keys at once: what `gcra` and
-- `entry` below do, without a table or a call for each.
local function run(first, size, numbers, counts)
  local _, _, limit, a, b, c, d = unpack('<ddddddd', numbers)
  local rows = {}
  for i = 0, size - 1 do
    local key, count, granted = KEYS[first + i], 1, 0
    if counts ~= '' then count = unpack('<d', counts, 8 * i + 1) end
    local value, back = try('GET', key), false
    local w, r = now, 0
    if value then
      if type(value) == 'table' and not string.find(value.err, 'WRONGTYPE', 1, true) then return value end
      if type(value) == 'table' or #value ~= 24 then
        granted, count = -1, -1
      else
        local tat, rest, last = unpack('<ddd', value)
        if now < last then tat, back = tat - (last - now), true end
        if rest >= limit then rest = limit - 1 end
        if tat >= now or (tat == now - 1 and rest > 0) then w, r = tat, rest end
      end
    end
    while granted < count do
      local full, part = w + a, r + b                        -- as plus, and as minus and a comparison
      if part >= limit then full, part = full + 1, part - limit end
      if full - c > now or (full - c == now and part > d) then break end
      w, r, granted = full, part, granted + 1
    end
    if granted > 0 or back then
      call('SET', key, pack('<ddd', w, r, now), 'PX', floor((w + 1 - now) / 1000) + slack)
    end
    rows[3 * i + 1], rows[3 * i + 2], rows[3 * i + 3] = granted, w, r
  end
  return {now, pack('<' .. string.rep('i8', #rows), spread(rows))}
end

local reply, arg, key = {tonumber(ARGV[1])}, 3, 1             -- the next ones

local function runs()
  while arg <= #ARGV do
    local mode, count = unpack('<dd', ARGV[arg])
    if mode ~= 3 then break end
    reply[#reply + 1] = run(key, count, ARGV[arg + 1], ARGV[arg + 2])
    arg, key = arg + 3, key + count
  end
end

runs()
if arg > #ARGV then return reply end                         -- before all that follows is made for nothing

local function div(a, b) return (a - a % b) / b end          -- exact below 2^53

-- Numbers with a rest in units of 1/limit: {whole, rest}, 0 <= rest < limit.
local function plus(a, ar, b, br, limit)
  local w, r = a + b, ar + br
  if r >= limit then return w + 1, r - limit end
  return w, r
end
local function minus(a, ar, b, br, limit)
  local w, r = a - b, ar - br
  if r < 0 then return w - 1, r + limit end
  return w, r
end

local gcra = {}
function gcra.read(value, p)
  if #value ~= 24 then return nil end
  local tat, rest, last = unpack('<ddd', value)
  if now < last then tat, p.back = tat - (last - now), true end
  if rest >= p.limit then rest = p.limit - 1 end             -- the rate was changed
  return {tat, rest}
end
function gcra.full(s, at)
  if s and (s[1] >= at or (s[1] == at - 1 and s[2] > 0)) then return s[1], s[2] end
  return at, 0
end
function gcra.earliest(s, at, p)
  local w, r = gcra.full(s, at)
  w, r = plus(w, r, p.a, p.b, p.limit)
  w, r = minus(w, r, p.c, p.d, p.limit)
  if r > 0 then w = w + 1 end
  return max(at, w)
end
function gcra.take(s, at, p)
  local w, r = gcra.full(s, at)
  w, r = plus(w, r, p.a, p.b, p.limit)
  return {w, r}
end
function gcra.give_back(s, at, p)
  local w, r = minus(s[1], s[2], p.c, p.d, p.limit)          -- the last reservation
  w, r = minus(w, r, max(at, now), 0, p.limit)
  if w < 0 then w, r = 0, 0 end
  w, r = minus(p.a, p.b, w, r, p.limit)                      -- what others do not hold
  if w < 0 then w, r = 0, 0 end
  w, r = minus(s[1], s[2], w, r, p.limit)
  if w < now then w, r = now, 0 end
  return {w, r}
end
function gcra.write(s) return pack('<ddd', s[1], s[2], now), s[1] + 1 end
function gcra.show(s) if s then return s[1], s[2], 0 end return 0, 0, 0 end

local fixed = {}
function fixed.read(value, p)
  if #value ~= 24 then return nil end
  local w, c, last = unpack('<ddd', value)
  if now < last then w, p.back = w - (div(last, p.a) - div(now, p.a)), true end
  return {w, c}
end
function fixed.at(s, at, p)
  local w = div(at, p.a)
  if s and s[1] >= w then return s[1], s[2] end
  return w, 0
end
function fixed.earliest(s, at, p)
  local w, c = fixed.at(s, at, p)
  if c + p.cost > p.limit then w = w + 1 end
  return max(at, w * p.a)
end
function fixed.take(s, at, p)
  local w, c = fixed.at(s, at, p)
  return {w, c + p.cost}
end
function fixed.give_back(s, at, p)
  if s[1] ~= div(at, p.a) then return s end
  return {s[1], max(0, s[2] - p.cost)}
end
function fixed.write(s, p) return pack('<ddd', s[1], s[2], now), (s[1] + 1) * p.a end
function fixed.show(s) if s then return s[1], s[2], 0 end return -1, 0, 0 end

local sliding = {}
function sliding.read(value, p)
  if #value ~= 32 then return nil end
  local w, q, c, last = unpack('<dddd', value)
  if now < last then w, p.back = w - (div(last, p.a) - div(now, p.a)), true end
  return {w, q, c}
end
function sliding.at(s, at, p)
  local w = div(at, p.a)
  if not s or s[1] < w - 1 then return w, 0, 0 end
  if s[1] == w - 1 then return w, s[3], 0 end
  return s[1], s[2], s[3]
end
function sliding.earliest(s, at, p)
  local w, q, c = sliding.at(s, at, p)
  local start = max(at, w * p.a)
  if c + p.cost > p.limit then
    w, q, c = w + 1, c, 0
    start = w * p.a
  end
  local free = p.limit - c - p.cost
  if q <= free then return start end
  return max(start, w * p.a + (p.c - div(free * p.c, q)) * p.b)
end
function sliding.take(s, at, p)
  local w, q, c = sliding.at(s, at, p)
  return {w, q, c + p.cost}
end
function sliding.give_back(s, at, p)
  local granted = div(at, p.a)
  if granted == s[1] then return {s[1], s[2], max(0, s[3] - p.cost)} end
  if granted == s[1] - 1 then return {s[1], max(0, s[2] - p.cost), s[3]} end
  return s
end
function sliding.write(s, p)
  return pack('<dddd', s[1], s[2], s[3], now), (s[1] + 2) * p.a
end
function sliding.show(s) if s then return s[1], s[2], s[3] end return -2, 0, 0 end

local log = {}
function log.read(value, p)
  if #value % 8 ~= 0 then return nil end
  local s = {}
  for place = 1, #value, 8 do s[#s + 1] = (unpack('<d', value, place)) end
  local last = table.remove(s)
  if now < last then
    p.back = true
    for i = 1, #s do s[i] = s[i] - (last - now) end
  end
  return s
end
function log.live(s, at, p)
  local first = 1
  while s and s[first] and s[first] <= at - p.a do first = first + 1 end
  if first == 1 then return s or {} end
  local live = {}
  for i = first, #s do live[#live + 1] = s[i] end
  return live
end
function log.earliest(s, at, p)
  local live = log.live(s, at, p)
  if #live == 0 then return at end
  at = max(at, live[#live])
  local over = #live + p.cost - p.limit
  if over <= 0 then return at end
  return max(at, live[over] + p.a)
end
function log.take(s, at, p)
  local live = log.live(s, at, p)
  local all, kept = {}, {}
  for i = 1, #live do all[i] = live[i] end
  for _ = 1, p.cost do all[#all + 1] = at end
  for i = max(1, #all - p.limit + 1), #all do kept[#kept + 1] = all[i] end
  return kept
end
function log.give_back(s, at, p)
  local kept, left = {}, p.cost
  for i = 1, #s do
    if s[i] == at and left > 0 then left = left - 1 else kept[#kept + 1] = s[i] end
  end
  return kept
end
function log.write(s, p)
  local rows = {}
  for i = 1, #s do rows[i] = pack('<d', s[i]) end
  return table.concat(rows) .. pack('<d', now), (s[#s] or now) + p.a
end
function log.show(s, p)
  local live = log.live(s, now, p)
  return #live, live[#live] or 0, 0
end

local machines = {gcra, fixed, sliding, log}

local function problem(value)                                -- a value that cannot be read
  if type(value) == 'table' and not string.find(value.err, 'WRONGTYPE', 1, true) then return value end
  return redis.error_reply('CORRUPT a rate limit key holds something else')
end

local function read(key, p)
  local value = try('GET', key)
  if not value then return nil, nil end
  local state = type(value) == 'string' and p.machine.read(value, p)
  if not state then return nil, problem(value) end
  return state, nil
end

local function write(key, state, p)
  local value, full = p.machine.write(state, p)
  local px = floor((full - now) / 1000) + slack
  if px > 0 then
    call('SET', key, value, 'PX', px)
  else
    call('DEL', key)
  end
end

local function entry(mode, count, time, size)
  local parts, states, trouble = {}, {}, nil
  for i = 1, size do
    local algorithm, cost, limit, a, b, c, d = unpack('<ddddddd', ARGV[arg])
    parts[i] = {key = KEYS[key], machine = machines[algorithm], cost = cost, limit = limit, a = a, b = b, c = c, d = d}
    arg, key = arg + 1, key + 1
    local state, unread = read(parts[i].key, parts[i])
    states[i] = state or false
    trouble = trouble or unread
  end
  if trouble then return trouble end
  local granted, at = 0, now
  if mode == 0 then
    while true do
      at = now
      repeat
        local latest = at
        for i = 1, size do latest = max(latest, parts[i].machine.earliest(states[i], at, parts[i])) end
        local agreed = latest == at
        at = latest
      until agreed
      if granted == count or at - now > time then break end
      granted = granted + 1
      for i = 1, size do
        if parts[i].cost > 0 then states[i] = parts[i].machine.take(states[i], at, parts[i]) end
      end
      if granted == count then break end
    end
  end
  for i = 1, size do
    local p = parts[i]
    if p.cost > 0 then
      if mode == 1 and states[i] then
        states[i] = p.machine.give_back(states[i], time, p)
        write(p.key, states[i], p)
      elseif mode == 2 then
        states[i] = p.machine.take(states[i], p.machine.earliest(states[i], now, p), p)
        write(p.key, states[i], p)
      elseif granted > 0 or p.back then
        write(p.key, states[i], p)
      end
    end
  end
  local item = {granted, now, at}
  for i = 1, size do
    local a, b, c = parts[i].machine.show(states[i] or nil, parts[i])
    item[#item + 1] = a
    item[#item + 1] = b
    item[#item + 1] = c
  end
  return item
end

while arg <= #ARGV do
  local mode, count, time, size = unpack('<dddd', ARGV[arg])
  arg = arg + 1
  reply[#reply + 1] = entry(mode, count, time, size)
  runs()
end
return reply
