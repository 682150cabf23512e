-- What `shared_redis.py` asks of Redis, each in one step. ARGV[1] says which; commands are those of Redis 6.2 and older.
--
-- Times are microseconds of Redis' own clock, so that replicas need not agree on the time. What is kept:
--
--   rate    hash: `n` the sum of what is in the window, `o` its oldest bucket, `a<i>` what bucket i took and `t<i>` when last;
--           `e` when the hash was made
--   slots   sorted set: who holds one, by the time until which
--   budget  hash: `n` nano-dollars, `e` since when it counts: from then on every take is in `n`. Until it is seeded there is no
--           `n`, and what is to be added to it waits in `h`. `r<process>:<mark>`: a take from before `e` that is held again
--   process hash: per mark of a take when it was done, or `void` for one that must not be done any more; `batch` the
--           number of the last settlements, so that sending them twice is sending them once
--
-- A counter with a later `e` than a take is not the one that was taken from: Redis lost that one, and this one was made
-- anew from the ledger, which knew nothing of the take. Whoever still holds it says so (`hold`); of one that ended before
-- that, all of what it really was is missing.

local BUCKETS = 60
local PROCESS_KEPT = 86400000
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local now_ms = math.floor(now / 1000)

-- A number as text that Redis reads as an integer, however large.
local function int(number)
  return string.format('%.0f', number)
end

-- Adds to a budget, also to one that is still to be seeded.
local function add(key, amount)
  redis.pcall('HINCRBY', key, redis.call('HEXISTS', key, 'n') == 1 and 'n' or 'h', amount)
end

-- The sum of a rate's window and its oldest bucket, after what has left it is forgotten. `span` is microseconds.
local function slide(key, span)
  local kept = redis.call('HMGET', key, 'n', 'o')
  if not kept[1] then
    return 0, nil
  end
  local total, oldest = tonumber(kept[1]), tonumber(kept[2])
  if oldest > math.floor(now * BUCKETS / span) then -- the clock was set back: all of this is in the future
    redis.call('DEL', key)
    return 0, nil
  end
  local edge = now - span
  local edge_bucket = math.floor(edge * BUCKETS / span)
  local index = oldest
  while index <= edge_bucket do
    local bucket = redis.call('HMGET', key, 'a' .. index, 't' .. index)
    if bucket[1] then
      if tonumber(bucket[2]) > edge then
        break
      end
      total = total - bucket[1]
      redis.call('HDEL', key, 'a' .. index, 't' .. index)
    end
    index = index + 1
  end
  if index > oldest then
    redis.call('HSET', key, 'n', int(total), 'o', index)
  end
  return total, index
end

-- Microseconds until `amount` has room in a rate's window, -1 for never.
local function room_in(key, span, total, oldest, amount, limit)
  if amount > limit then
    return -1
  end
  for index = oldest, math.floor(now * BUCKETS / span) do
    local bucket = redis.call('HMGET', key, 'a' .. index, 't' .. index)
    if bucket[1] then
      total = total - bucket[1]
      if total + amount <= limit then
        return bucket[2] + span - now
      end
    end
  end
  return -1
end

-- ARGV: mark, holder, lease; then kind, amount, limit, span, end of each KEYS[2..]. Spans are microseconds, other times ms.
-- Gives 'taken' and when; 'refused', which, how much is used, microseconds until there is room or -1; 'unknown', which ones,
-- those that nobody has missed before with a minus.
local function take()
  local mark, holder, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
  local unknown = {'unknown'}
  for i = 2, #KEYS do
    local at = 5 * i - 5
    local kind, amount, limit = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local used, room = 0, -1
    if kind == 'rate' then
      local span, oldest = tonumber(ARGV[at + 3]), nil
      used, oldest = slide(KEYS[i], span)
      if used + amount > limit and oldest then
        room = room_in(KEYS[i], span, used, oldest, amount, limit)
      end
    elseif kind == 'slots' then
      redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now_ms)
      used = redis.call('ZCARD', KEYS[i])
    else
      used = redis.call('HGET', KEYS[i], 'n')
      if tonumber(ARGV[at + 4]) > 0 then
        room = math.max(0, ARGV[at + 4] * 1000 - now)
      end
    end
    if not used then
      unknown[#unknown + 1] = i - 1
    elseif used + amount > limit then
      return {'refused', i - 1, used, room}
    end
  end
  if #unknown > 1 then
    for j = 2, #unknown do
      local key = KEYS[unknown[j] + 1]
      if redis.call('HSETNX', key, 'e', now) == 1 then
        redis.call('PEXPIRE', key, PROCESS_KEPT)
        unknown[j] = -unknown[j]
      end
    end
    return unknown
  end
  if redis.call('HSETNX', KEYS[1], mark, now) == 0 then
    return {'void'}
  end
  redis.call('PEXPIRE', KEYS[1], PROCESS_KEPT)
  for i = 2, #KEYS do
    local at = 5 * i - 5
    local kind, amount, span, ends = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
    if kind == 'rate' then
      local index = math.floor(now * BUCKETS / span)
      if redis.call('HSETNX', KEYS[i], 'e', now) == 1 then
        redis.call('HSET', KEYS[i], 'o', index)
      end
      redis.call('HINCRBY', KEYS[i], 'n', amount)
      redis.call('HINCRBY', KEYS[i], 'a' .. index, amount)
      redis.call('HSET', KEYS[i], 't' .. index, now)
      redis.call('PEXPIRE', KEYS[i], math.ceil(span / 1000) + 1000)
    elseif kind == 'slots' then
      redis.call('ZADD', KEYS[i], now_ms + lease, holder)
      redis.call('PEXPIRE', KEYS[i], lease)
    else
      redis.call('HINCRBY', KEYS[i], 'n', amount)
      if ends == 0 then
        redis.call('PEXPIRE', KEYS[i], span)
      end
    end
  end
  return {'taken', now}
end

-- The field of a budget that says that this process' take is held again.
local function held_again(mark)
  return 'r' .. KEYS[1] .. ':' .. mark
end

-- ARGV: number of the batch; then kind, mark, when taken, amount taken, real amount, and span or holder of each KEYS[2..].
-- When taken is empty for a take that nobody knows the outcome of: its mark knows, and a take that is still to come is void.
-- What cannot be written does not keep the others from being settled; that nothing can be written shows at the first.
local function settle()
  if tonumber(redis.call('HGET', KEYS[1], 'batch') or 0) >= tonumber(ARGV[2]) then
    return 0
  end
  redis.call('HSET', KEYS[1], 'batch', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], PROCESS_KEPT)
  local done = {}
  for i = 2, #KEYS do
    local at = 6 * i - 9
    local kind, mark, taken, amount, real = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
    if taken == '' then
      redis.call('HSETNX', KEYS[1], mark, 'void')
      taken = redis.call('HGET', KEYS[1], mark)
    end
    if taken ~= 'void' and mark ~= '' then
      done[#done + 1] = mark
    end
    taken = tonumber(taken)
    if kind == 'slots' then
      redis.call('ZREM', KEYS[i], ARGV[at + 5])
    elseif kind == 'budget' and taken then
      local made = tonumber(redis.call('HGET', KEYS[i], 'e'))
      if made and (made <= taken or redis.call('HDEL', KEYS[i], held_again(mark)) == 1) then
        add(KEYS[i], int(real - amount))
      elseif made and (mark ~= '' or redis.call('HEXISTS', KEYS[i], 'n') == 1) then
        add(KEYS[i], real)
      end
    elseif kind == 'rate' and taken then
      local bucket = 'a' .. math.floor(taken * BUCKETS / ARGV[at + 5])
      local kept = redis.call('HMGET', KEYS[i], 'e', bucket)
      if kept[2] and tonumber(kept[1]) <= taken then
        redis.pcall('HINCRBY', KEYS[i], 'n', int(real - amount))
        redis.pcall('HINCRBY', KEYS[i], bucket, int(real - amount))
      end
    end
  end
  for _, mark in ipairs(done) do
    redis.call('HDEL', KEYS[1], mark)
  end
  return 1
end

-- ARGV: lease in ms; then the holder of each KEYS[2..]. A lease that has run out while its holder lives is true again.
local function renew()
  local lease = tonumber(ARGV[2])
  redis.call('PEXPIRE', KEYS[1], PROCESS_KEPT)
  for i = 2, #KEYS do
    redis.call('ZADD', KEYS[i], now_ms + lease, ARGV[i + 1])
    redis.call('PEXPIRE', KEYS[i], lease)
  end
  return 1
end

-- ARGV: number of the last settlements; then mark, when taken and amount of each KEYS[2..]. What a counter that was made anew
-- does not know is added to it, once. One that arrives after later settlements may name what these have settled.
local function hold()
  if tonumber(redis.call('HGET', KEYS[1], 'batch') or 0) > tonumber(ARGV[2]) then
    return 0
  end
  for i = 2, #KEYS do
    local at = 3 * i - 3
    local made = tonumber(redis.call('HGET', KEYS[i], 'e'))
    if made and made > tonumber(ARGV[at + 1]) and redis.call('HSETNX', KEYS[i], held_again(ARGV[at]), 1) == 1 then
      add(KEYS[i], ARGV[at + 2])
    end
  end
  return 1
end

-- ARGV: nano-dollars, ms to keep it if it never ends, the unix ms until which to keep it or 0.
local function seed()
  if redis.call('HSETNX', KEYS[1], 'n', ARGV[2]) == 0 then
    return 0
  end
  redis.call('HSETNX', KEYS[1], 'e', now)
  local waiting = redis.call('HGET', KEYS[1], 'h')
  if waiting then
    redis.pcall('HINCRBY', KEYS[1], 'n', waiting)
    redis.call('HDEL', KEYS[1], 'h')
  end
  if tonumber(ARGV[4]) > now_ms then
    redis.call('PEXPIREAT', KEYS[1], ARGV[4])
  else
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
  return 1
end

-- ARGV: kind and span of each of KEYS.
local function look()
  local used = {}
  for i = 1, #KEYS do
    local kind = ARGV[2 * i]
    if kind == 'rate' then
      used[i] = slide(KEYS[i], tonumber(ARGV[2 * i + 1]))
    elseif kind == 'slots' then
      used[i] = redis.call('ZCOUNT', KEYS[i], '(' .. int(now_ms), '+inf')
    else
      used[i] = redis.call('HGET', KEYS[i], 'n')
    end
  end
  return used
end

return ({take = take, settle = settle, renew = renew, hold = hold, seed = seed, look = look})[ARGV[1]]()
