-- A replica says that it lives, and learns what is common to the fleet.
--
-- ARGV[1] own cap  ARGV[2] own retention (seconds)  ARGV[3] owner  ARGV[4] lease (ms)
-- ARGV[5] own schema  ARGV[6] the URLs it has names for, joined by LF
-- ARGV[7] how long ago it started (µs)  ARGV[8] the workers it was started with, joined by LF
-- ARGV[9] the workers it has discovered: '' when they are as told before, else JSON
-- Returns {now (µs), cap, ttl, server, known, schema, owners, names, memory, limit}
--   server  changes when the data may be another: other process, or emptied
--   known   1 when the lease of before had not run out
--   names   for each URL the name bound to it, or nil
--   memory  bytes the server uses, and (limit) may use, 0 where it has no limit; 0 where it does not tell
-- Error   SCHEMA <stored>: the data is more than one version apart; nothing was changed
local now = time_us()
local cap, ttl = tonumber(ARGV[1]), tonumber(ARGV[2])
local owner, lease, schema, urls = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local started, static, found = text(now - tonumber(ARGV[7])), ARGV[8], ARGV[9]

local stored = tonumber(redis.call('GET', P .. 'schema') or schema)
if math.abs(stored - schema) > 1 then return redis.error_reply('SCHEMA ' .. stored) end

local me = P .. 'replica:' .. owner
local known = redis.call('EXISTS', me)
if (redis.call('HGET', me, 'static') or '') ~= static then
  workers_changed(now)
end
if found ~= '' and (redis.call('HGET', me, 'found') or '[]') ~= found then
  workers_changed(now)
  redis.call('HSET', me, 'found', found)
end
redis.call('HSET', me, 'cap', cap, 'ttl', ttl, 'schema', schema, 'urls', urls, 'started', started,
  'static', static)
redis.call('PEXPIRE', me, lease)
redis.call('ZADD', P .. 'replicas', text(now), owner)

-- The largest settings among the living are in force; the format is what the oldest of them speaks.
local owners = {}
for _, other in ipairs(redis.call('ZRANGE', P .. 'replicas', 0, -1)) do
  local theirs = redis.call('HMGET', P .. 'replica:' .. other, 'cap', 'ttl', 'schema')
  if theirs[1] then
    cap, ttl = math.max(cap, tonumber(theirs[1])), math.max(ttl, tonumber(theirs[2]))
    schema = math.min(schema, tonumber(theirs[3]))
    owners[#owners + 1] = other
  else
    redis.call('ZREM', P .. 'replicas', other)
  end
end
redis.call('SET', P .. 'schema', schema)

local settings = P .. 'settings'
local before = redis.call('HMGET', settings, 'ttl', 'old_ttl', 'raised_at')
if before[1] and ttl > tonumber(before[1]) then
  local old = tonumber(before[1])
  if before[2] and now - old * 1000000 < tonumber(before[3]) then
    old = math.min(old, tonumber(before[2])) -- raised again before the last raise had its effect
  end
  redis.call('HSET', settings, 'old_ttl', old, 'raised_at', text(now))
end
redis.call('HSET', settings, 'cap', cap, 'ttl', ttl)
redis.call('HSETNX', settings, 'since', text(now) .. ' ' .. owner)
redis.call('EXPIRE', settings, ttl + SLACK_SECONDS)
redis.call('EXPIRE', P .. 'replicas', ttl + SLACK_SECONDS)

local info = redis.pcall('INFO', 'server') -- may be forbidden to us, or unknown to a fake
local run_id = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''

local usage = redis.pcall('INFO', 'memory')
if type(usage) ~= 'string' then usage = '' end

local names = {}
for url in string.gmatch(urls, '[^\n]+') do
  local binding = redis.call('HGET', P .. 'nodes', url)
  names[#names + 1] = binding and string.sub(binding, 3)
end
return {text(now), cap, ttl, run_id .. ' ' .. redis.call('HGET', settings, 'since'), known, schema,
  owners, names, tonumber(string.match(usage, 'used_memory:(%d+)')) or 0,
  tonumber(string.match(usage, 'maxmemory:(%d+)')) or 0}
