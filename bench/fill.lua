-- Fill a fleet with small records, as `tracking/scripts/write.lua` leaves them.
--
-- KEYS[1] {fleet}:all  ARGV[1] first number  ARGV[2] how many  ARGV[3] arrival of the first (µs)
-- ARGV[4] µs between arrivals  ARGV[5] expiry (Unix seconds)
local P = string.sub(KEYS[1], 1, -4)
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival, step = tonumber(ARGV[3]), tonumber(ARGV[4])
local STATUS = {'completed', 'completed', 'completed', 'completed', 'failed', 'cancelled'}

for n = first, first + count - 1 do
  local key = string.format('k%09d', n)
  local score = string.format('%.0f', arrival + (n - first) * step)
  local node, status = 'worker-' .. (n % 8), STATUS[n % #STATUS + 1]
  local meta = table.concat({3, score, 'a/1', status, node, '', '', ''}, '\t')
  local row = string.format('{"request_id":"%s","node_id":"%s","status":"%s","key":"%s","label":"%d"}',
    key, node, status, key, n % 1000)
  redis.call('SET', P .. 'r:' .. key, meta .. '\n' .. row .. '\n{}', 'EXAT', ARGV[5])
  redis.call('ZADD', KEYS[1], score, key)
  redis.call('ZADD', P .. 'node:' .. node, score, key)
  redis.call('ZADD', P .. 'status:' .. status, score, key)
  if n % 1000 < 8 then redis.call('ZADD', P .. 'nodes-seen', 'GT', score, node) end
end
return count
