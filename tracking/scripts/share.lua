-- A replica tells the others what it has, and learns what they have.
--
-- ARGV[3] owner
-- ARGV[4] its requests: '' when they are as told before, else '=' and all of them
-- ARGV[5] the time (µs) of its last call: others' requests that are older are not repeated
-- ARGV[6] how far it has read the stream of prefixes: -1 for not at all, and it reads none
-- ARGV[7] how many entries it takes of it    ARGV[8] how long the stream may be (bytes)
-- ARGV[9] prefixes it learnt, or ''
-- Returns {now, known, version, total, position, more, n, (owner, age, requests) * n, prefixes...}
--   known     1 when the lease holds; 0: nothing was told, as a share must not outlive its lease
--   version   of the list of workers
--   total     bytes of prefixes ever told; position: how far it has now read them
--   more      1 when there are prefixes left to read
--   requests  '' when they are as at the last call, else '=' and all of them
-- `age` (µs) is that of the owner's last call: its requests were true then.
--
-- An entry's id in the stream is the number of bytes told until it: trimming by id bounds the bytes.
local now = time_us()
local owner, requests, since = ARGV[3], ARGV[4], tonumber(ARGV[5])
local position, limit, cap, learnt = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local STREAM_SECONDS = 3600
local stream, bytes = P .. 'prefixes', P .. 'prefixes-bytes'

local me = P .. 'replica:' .. owner
local known = redis.call('EXISTS', me)
if known == 1 then
  if requests ~= '' then redis.call('HSET', me, 'load', requests, 'load_changed', text(now)) end
  redis.call('HSET', me, 'load_at', text(now))
end

local total = tonumber(redis.call('GET', bytes) or '0')
if learnt ~= '' then
  if total == 0 then redis.call('DEL', stream) end -- the one was lost without the other
  total = redis.call('INCRBY', bytes, #learnt)
  redis.call('XADD', stream, 'MINID', '~', text(math.max(0, total - cap)), text(total) .. '-0',
    owner, learnt)
  redis.call('EXPIRE', stream, STREAM_SECONDS)
  redis.call('EXPIRE', bytes, STREAM_SECONDS)
end

local shares, prefixes, more = {}, {}, 0
for _, other in ipairs(redis.call('ZRANGE', P .. 'replicas', 0, -1)) do
  if other ~= owner then
    local theirs = redis.call('HMGET', P .. 'replica:' .. other, 'load_at', 'load_changed')
    if theirs[1] and theirs[2] then
      local repeated = tonumber(theirs[2]) <= since
      shares[#shares + 1] = other
      shares[#shares + 1] = text(now - tonumber(theirs[1]))
      shares[#shares + 1] = repeated and '' or redis.call('HGET', P .. 'replica:' .. other, 'load')
    end
  end
end
if position >= 0 then
  if position > total then position = 0 end -- the data is another
  if position < total then
    local entries = redis.call('XRANGE', stream, '(' .. text(position) .. '-0', '+', 'COUNT', limit)
    for _, entry in ipairs(entries) do
      if entry[2][1] ~= owner then prefixes[#prefixes + 1] = entry[2][2] end
      position = tonumber(string.match(entry[1], '^%d+'))
    end
    if #entries < limit then position = total else more = 1 end
  end
end

local reply = {text(now), known, tonumber(redis.call('GET', P .. 'workers-version') or '0'),
  total, position, more, #shares / 3}
for _, part in ipairs(shares) do reply[#reply + 1] = part end
for _, part in ipairs(prefixes) do reply[#reply + 1] = part end
return reply
