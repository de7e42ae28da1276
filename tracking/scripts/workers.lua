-- What all replicas say of workers.
--
-- ARGV[3] owner
-- Returns {version, epoch, n, (started, static, found) * n, m, (identity, fields) * m}
--   n live replicas other than the owner: when it started (µs), its static workers joined by LF,
--     those it has discovered (JSON, or '')
--   m workers that were changed by API: identity, and field, value, field, value, ...
local reply = {tonumber(redis.call('GET', P .. 'workers-version') or '0'),
  redis.call('GET', P .. 'workers-epoch') or '', 0}

local count = 0
for _, other in ipairs(redis.call('ZRANGE', P .. 'replicas', 0, -1)) do
  local theirs = redis.call('HMGET', P .. 'replica:' .. other, 'started', 'static', 'found')
  if other ~= ARGV[3] and theirs[1] and theirs[2] then
    count = count + 1
    reply[#reply + 1] = theirs[1]
    reply[#reply + 1] = theirs[2]
    reply[#reply + 1] = theirs[3] or ''
  end
end
reply[3] = count

reply[#reply + 1] = 0
local place = #reply
for _, identity in ipairs(redis.call('SMEMBERS', P .. 'workers')) do
  local fields = redis.call('HGETALL', P .. 'worker:' .. identity)
  if #fields > 0 then
    reply[place] = reply[place] + 1
    reply[#reply + 1] = identity
    reply[#reply + 1] = fields
  end
end
return reply
