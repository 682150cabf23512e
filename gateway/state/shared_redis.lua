-- What `shared_redis.py` asks of Redis, in steps that follow one another; commands are those of Redis 6.2 and older.
--
-- ARGV[1] is a MessagePack array that has for each step how many of KEYS are its own and an array of its words, the first of
-- which says what to do. What the steps answer is one such array too. So a call costs Redis and its client what one argument and one
-- answer cost, however many requests are in it (each was 35 words before). Words are numbers where these are exact (below
-- 2^53) and text where they are not. ARGV[2] is the number of the last settlements, for all takes of the call: those that are done
-- after later ones come from a connection that was given up, and have been given back.
--
-- Times are microseconds of Redis' own clock, so that replicas need not agree on the time. What is kept:
--
--   rate    hash: `n` the sum of what is in the window, `o` its oldest bucket, `a<i>` what bucket i took and `t<i>` when last;
--           `e` when the hash was made
--   slots   sorted set: who holds one, by the time until which
--   budget  hash: `n` nano-dollars, `e` since when it counts: from then on every take is in `n`. Until it is seeded there is no
--           `n`, and what is to be added to it waits in `h`. `r<process>:<mark>`: a take from before `e` that is held again
--   process hash: per mark of a take that is not settled when it was done; `batch` the number of the last settlements, so that
--           sending them twice is sending them once
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

-- Keeps a key for so many ms from now; many steps of a call may say so, and the first is enough.
local kept_until = {}
local function keep(key, ms)
  if kept_until[key] ~= now_ms + ms then
    kept_until[key] = now_ms + ms
    redis.call('PEXPIRE', key, ms)
  end
end

-- Whether the process has settled since: asked once in a call, whose takes are all its own.
local has_settled
local function is_late(process)
  if has_settled == nil then
    has_settled = tonumber(redis.call('HGET', process, 'batch') or 0) > tonumber(ARGV[2])
  end
  return has_settled
end

-- How many hold a slot, after those whose lease has run out were forgotten: once in a call, whose steps share their moment.
local is_swept = {}
local function holders(key)
  if not is_swept[key] then
    is_swept[key] = true
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
  end
  return redis.call('ZCARD', key)
end

-- Adds to a budget, also to one that is still to be seeded: `seeded` is whether it has an `n`.
local function add(key, amount, seeded)
  redis.pcall('HINCRBY', key, seeded and 'n' or 'h', amount)
end

-- The sum of a rate's window, its oldest bucket and what is in the bucket of now, after what has left it is forgotten. `span`
-- is microseconds. Without a hash there is no oldest bucket, and nobody has taken in this bucket's time if nothing is in it.
local function slide(key, span)
  local newest = math.floor(now * BUCKETS / span)
  local kept = redis.call('HMGET', key, 'n', 'o', 'a' .. newest)
  if not kept[1] then
    return 0, nil, nil
  end
  local total, oldest = tonumber(kept[1]), tonumber(kept[2])
  if oldest > newest then -- the clock was set back: all of this is in the future
    redis.call('DEL', key)
    return 0, nil, nil
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
  return total, index, kept[3]
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

-- words: mark, holder, lease; then kind, amount, limit, span, end of each keys[2..]. Spans are microseconds, other times ms.
-- Gives 'taken' and when; 'refused', which, how much is used, microseconds until there is room or -1; 'unknown', which ones,
-- those that nobody has missed before with a minus: these are told to all here, for who asked may not get the answer.
local function take(keys, words)
  local mark, holder, lease = words[2], words[3], words[4]
  local unknown = {'unknown'}
  local sums, oldests, newests = {}, {}, {}
  for i = 2, #keys do
    local at = 5 * i - 5
    local kind, amount, limit = words[at], tonumber(words[at + 1]), tonumber(words[at + 2])
    local used, room = 0, -1
    if kind == 'rate' then
      local span, oldest = words[at + 3], nil
      used, oldest, newests[i] = slide(keys[i], span)
      sums[i], oldests[i] = used, oldest
      if used + amount > limit and oldest then
        room = room_in(keys[i], span, used, oldest, amount, limit)
      end
    elseif kind == 'slots' then
      used = holders(keys[i])
    else
      used = redis.call('HGET', keys[i], 'n')
      if words[at + 4] > 0 then
        room = math.max(0, words[at + 4] * 1000 - now)
      end
    end
    if not used then
      unknown[#unknown + 1] = i - 1
    elseif used + amount > limit then
      return {'refused', i - 1, used, room}
    end
  end
  if #unknown > 1 then
    local prefix = keys[1]:match('^(.*)process:')
    for j = 2, #unknown do
      local key = keys[unknown[j] + 1]
      if redis.call('HSETNX', key, 'e', now) == 1 then
        redis.call('PEXPIRE', key, PROCESS_KEPT)
        redis.call('PUBLISH', prefix .. 'channel:lost', key:sub(#prefix + #'budget:' + 1))
        unknown[j] = -unknown[j]
      end
    end
    return unknown
  end
  if is_late(keys[1]) then
    return {'void'}
  end
  redis.call('HSET', keys[1], mark, now)
  keep(keys[1], PROCESS_KEPT)
  for i = 2, #keys do
    local at = 5 * i - 5
    local kind, amount, span, ends = words[at], words[at + 1], words[at + 3], words[at + 4]
    if kind == 'rate' then
      local index = math.floor(now * BUCKETS / span)
      local bucket, last = 'a' .. index, 't' .. index
      local sum, newest = int(sums[i] + amount), int((newests[i] or 0) + amount)
      if oldests[i] then
        redis.call('HSET', keys[i], 'n', sum, bucket, newest, last, now)
      else
        redis.call('HSET', keys[i], 'e', now, 'o', index, 'n', sum, bucket, newest, last, now)
      end
      if not newests[i] then -- it outlives all that is taken in this bucket's time
        redis.call('PEXPIRE', keys[i], math.ceil(span * (1 + 1 / BUCKETS) / 1000) + 1000)
      end
    elseif kind == 'slots' then
      redis.call('ZADD', keys[i], now_ms + lease, holder)
      keep(keys[i], lease)
    else
      redis.call('HINCRBY', keys[i], 'n', amount)
      if ends == 0 then
        keep(keys[i], span)
      end
    end
  end
  return {'taken', now}
end

-- The field of a budget that says that this process' take is held again.
local function held_again(process, mark)
  return 'r' .. process .. ':' .. mark
end

-- words: number of the batch; then kind, mark, when taken, amount taken, real amount, and span or holder of each keys[2..].
-- When taken is empty for a take that nobody knows the outcome of: its mark knows, and a take that is still to come is late.
-- What cannot be written does not keep the others from being settled; that nothing can be written shows at the first.
local function settle(keys, words)
  if tonumber(redis.call('HGET', keys[1], 'batch') or 0) >= words[2] then
    return 0
  end
  redis.call('HSET', keys[1], 'batch', words[2])
  keep(keys[1], PROCESS_KEPT)
  local done = {}
  for i = 2, #keys do
    local at = 6 * i - 9
    local kind, mark, taken, amount, real = words[at], words[at + 1], words[at + 2], words[at + 3], words[at + 4]
    if taken == '' then
      taken = redis.call('HGET', keys[1], mark)
    end
    if taken and mark ~= '' and done[#done] ~= mark then
      done[#done + 1] = mark
    end
    taken = tonumber(taken)
    if kind == 'slots' then
      redis.call('ZREM', keys[i], words[at + 5])
      kept_until[keys[i]] = nil -- with the last of them the key went, and how long it was to be kept
    elseif kind == 'budget' and taken then
      local kept = redis.call('HMGET', keys[i], 'e', 'n')
      local made = tonumber(kept[1])
      if made and (made <= taken or redis.call('HDEL', keys[i], held_again(keys[1], mark)) == 1) then
        add(keys[i], int(real - amount), kept[2])
      elseif made and (mark ~= '' or kept[2]) then
        add(keys[i], real, kept[2])
      end
    elseif kind == 'rate' and taken then
      local bucket = 'a' .. math.floor(taken * BUCKETS / words[at + 5])
      local kept = redis.call('HMGET', keys[i], 'e', 'n', bucket)
      if kept[3] and tonumber(kept[1]) <= taken then
        redis.pcall('HSET', keys[i], 'n', int(kept[2] + real - amount), bucket, int(kept[3] + real - amount))
      end
    end
  end
  if done[1] then
    redis.call('HDEL', keys[1], unpack(done))
  end
  return 1
end

-- words: number of the last settlements, lease in ms; then the holder of each keys[2..]. A lease that has run out while its holder
-- lives is true again. One that arrives after later settlements may name what these have freed.
local function renew(keys, words)
  local lease = words[3]
  redis.call('PEXPIRE', keys[1], PROCESS_KEPT) -- which may not be there, and then is not kept
  if tonumber(redis.call('HGET', keys[1], 'batch') or 0) > words[2] then
    return 0
  end
  for i = 2, #keys do
    redis.call('ZADD', keys[i], now_ms + lease, words[i + 2])
    keep(keys[i], lease)
  end
  return 1
end

-- words: number of the last settlements; then mark, when taken and amount of each keys[2..]. What a counter that was made anew
-- does not know is added to it, once. One that arrives after later settlements may name what these have settled.
local function hold(keys, words)
  if tonumber(redis.call('HGET', keys[1], 'batch') or 0) > words[2] then
    return 0
  end
  for i = 2, #keys do
    local at = 3 * i - 3
    local kept = redis.call('HMGET', keys[i], 'e', 'n')
    local made = tonumber(kept[1])
    if made and made > words[at + 1] and redis.call('HSETNX', keys[i], held_again(keys[1], words[at]), 1) == 1 then
      add(keys[i], words[at + 2], kept[2])
    end
  end
  return 1
end

-- words: nano-dollars, ms to keep it if it never ends, the unix ms until which to keep it or 0.
local function seed(keys, words)
  if redis.call('HSETNX', keys[1], 'n', words[2]) == 0 then
    return 0
  end
  redis.call('HSETNX', keys[1], 'e', now)
  local waiting = redis.call('HGET', keys[1], 'h')
  if waiting then
    redis.pcall('HINCRBY', keys[1], 'n', waiting)
    redis.call('HDEL', keys[1], 'h')
  end
  if words[4] > now_ms then
    redis.call('PEXPIREAT', keys[1], words[4])
  else
    redis.call('PEXPIRE', keys[1], words[3])
  end
  return 1
end

-- words: kind and span of each of keys.
local function look(keys, words)
  local used = {}
  for i = 1, #keys do
    local kind = words[2 * i]
    if kind == 'rate' then
      used[i] = (slide(keys[i], words[2 * i + 1]))
    elseif kind == 'slots' then
      used[i] = redis.call('ZCOUNT', keys[i], '(' .. int(now_ms), '+inf')
    else
      used[i] = redis.call('HGET', keys[i], 'n')
    end
  end
  return used
end

local kinds = {take = take, settle = settle, renew = renew, hold = hold, seed = seed, look = look}
local steps, answers, first = cmsgpack.unpack(ARGV[1]), {}, 0
for i = 1, #steps, 2 do
  local keys = {}
  for j = 1, steps[i] do
    keys[j] = KEYS[first + j]
  end
  first = first + steps[i]
  answers[#answers + 1] = kinds[steps[i + 1][1]](keys, steps[i + 1])
end
return cmsgpack.pack(answers)
