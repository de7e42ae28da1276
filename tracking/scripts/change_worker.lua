-- One change of one worker, for all replicas.
--
-- ARGV[3] identity  ARGV[4] what  ARGV[5..] field, value, ...
--   add      it exists until it is deleted; one that was added before stays as it is
--   update   these fields change, of one that was not deleted
--   join     it was found healthy: it need not be waited for any more
--   retract  it could not be added; nothing when it has joined meanwhile
--   delete   it is gone until it is added again, or listed by a replica that started later
--   restore  as `fields` say, where the data was lost; nothing when there is an entry
-- Returns the version of the lists.
local TOMBSTONE_SECONDS = 30 * 86400
local identity, what = ARGV[3], ARGV[4]
local time = time_us()
local key, now = P .. 'worker:' .. identity, text(time)
local added, deleted, joined = unpack(redis.call('HMGET', key, 'added', 'deleted', 'joined'))

local function set(...)
  redis.call('SADD', P .. 'workers', identity)
  if select('#', ...) > 0 then redis.call('HSET', key, ...) end
  if #ARGV > 4 then redis.call('HSET', key, unpack(ARGV, 5)) end
end

local changed = true
if what == 'add' and not added then
  redis.call('DEL', key)
  set('added', now)
elseif what == 'update' and not deleted then
  set()
elseif what == 'join' and added and not joined then
  set('joined', '1')
elseif what == 'retract' and added and not joined then
  redis.call('DEL', key)
  redis.call('SREM', P .. 'workers', identity)
elseif what == 'delete' then
  redis.call('DEL', key)
  set('deleted', now)
  redis.call('EXPIRE', key, TOMBSTONE_SECONDS)
elseif what == 'restore' and not added and not deleted then
  set()
  if redis.call('HEXISTS', key, 'deleted') == 1 then
    redis.call('EXPIRE', key, TOMBSTONE_SECONDS)
  end
else
  changed = false
end

redis.call('SETNX', P .. 'workers-epoch', now)
if changed then workers_changed(time) end
for _, one in ipairs(redis.call('SMEMBERS', P .. 'workers')) do
  if redis.call('EXISTS', P .. 'worker:' .. one) == 0 then redis.call('SREM', P .. 'workers', one) end
end
return tonumber(redis.call('GET', P .. 'workers-version') or '0')
