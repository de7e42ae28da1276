-- Delete records.
--
-- ARGV[3]  'all'      everything held, at once, by lifting the floor. Returns how many
--          'collect'  remove what lies below the floor, some at a time. Returns how many it saw
--          'id', 'session'  what is under that id, or of that session (ARGV[4]), some at a time.
--                     Returns {how many were deleted, 1 when some are left}
local AT_ONCE = 120 -- 1 to 2 ms
local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local mode, id = ARGV[3], ARGV[4]

if mode == 'collect' then return collect(floor, AT_ONCE) end

if mode == 'all' then
  local held = redis.call('ZCOUNT', P .. 'all', text(floor), '+inf')
  local newest = tonumber(redis.call('ZREVRANGE', P .. 'all', 0, 0, 'WITHSCORES')[2] or '0')
  local cut = now
  if newest < now + AHEAD_US then cut = math.max(now, newest) end
  redis.call('HSET', P .. 'settings', 'floor', text(cut + 1))
  redis.call('HINCRBY', P .. 'settings', 'epoch', 1) -- the tallies of before are left to expire
  redis.call('DEL', P .. 'ended')
  redis.call('HINCRBY', P .. 'settings', 'summed', 1) -- what is being summed up is of before, too
  redis.call('EXPIRE', P .. 'settings', settings.ttl + SLACK_SECONDS)
  redis.call('SET', P .. 'total', '0')
  empty_feed()
  return held
end

local deleted = 0
local function delete(keys)
  deleted = deleted + remove(keys, floor)
end
local function delete_under(index)
  local keys = redis.call('ZREVRANGE', P .. index, 0, AT_ONCE - 1)
  if #keys > 0 then
    delete(keys)
    redis.call('ZREM', P .. index, unpack(keys)) -- also where the server has evicted the record
  end
  return #keys == AT_ONCE and 1 or 0
end

local more
if mode == 'session' then
  more = delete_under('session:' .. id)
else
  more = delete_under('id:' .. id)
  delete({id})
  if deleted == 0 then
    more = delete_under('engine:' .. id)
    local keys = made_of_ours(id)
    delete(keys)
    if #keys > 0 then more = 1 end
  end
end
if deleted > 0 then empty_feed() end
return {deleted, more}
