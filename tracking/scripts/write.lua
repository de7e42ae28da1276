-- Write a batch of records (at most 100), atomically.
--
-- ARGV[3..]  for each record: key, record (meta, row, detail), tally
--            tally: route TAB policy TAB model LF facts of a finished request, else empty; the facts
--            are left in the log of finished requests, which `sums` counts
-- Returns    {accepted, added}
--
-- A record is taken when nothing is stored under its key, when it is newer and of the same owner, or
-- when the stored one was declared lost and this comes from its owner. Anything else is a repeat, or
-- late, and changes nothing. Index moves go by what is stored, never by what the caller believes.
local MAX_NAMES = 64 -- distinct routes, policies, models in one bucket; models are the clients' words
local TRIM = 120     -- of each kind of rubbish, per call: a call stays below 5 ms

local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local lifetime = settings.ttl + SLACK_SECONDS
local accepted, added = 0, 0
local touched, seen, owners, tallies, finished = {}, {}, {}, {}, {}
local tip = feed_tip()

local function index(name, score, key)
  local k = P .. name
  touched[k] = true
  return redis.call('ZADD', k, score, key)
end

local function point(name, score, key)
  redis.call('ZADD', P .. name, score, key)
  redis.call('EXPIRE', P .. name, lifetime)
end

local function move(kind, old, new, score, key)
  if old == new then return end
  if old and old ~= '' then redis.call('ZREM', P .. kind .. old, key) end
  if new ~= '' then index(kind .. new, score, key) end
end

local function count(bucket, field)
  local counts = tallies[bucket]
  if not counts then counts = {}; tallies[bucket] = counts end
  counts[field] = (counts[field] or 0) + 1
end

local function tally(arrived, names)
  local minute = math.floor(arrived / 60000000)
  local route, policy, model, facts = string.match(names, '^([^\t]*)\t([^\t]*)\t([^\t\n]*)\n(.*)$')
  finished[#finished + 1] = facts
  for field, name in pairs({r = route, p = policy, m = model}) do
    if name ~= '' then
      count('minute:' .. settings.epoch .. ':' .. text(minute), field .. ':' .. name)
      count('hour:' .. settings.epoch .. ':' .. text(math.floor(minute / 60)), field .. ':' .. name)
    end
  end
end

for i = 3, #ARGV, 3 do
  local key, record, names = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local new = parse(record)
  local old = stored_meta(key)
  local newer = not old or (old.owner == new.owner and
    (new.revision > old.revision or (old.status == 'lost' and new.revision == old.revision)))
  if new.arrived < floor then
    -- Not held any more, so neither running: its stored version may be gone already.
    if not OPEN[new.status] then redis.call('SREM', P .. 'open:' .. new.owner, key) end
  elseif newer then
    local score = new.score
    accepted = accepted + 1
    redis.call('SET', P .. 'r:' .. key, record,
      'EXAT', text(math.floor(new.arrived / 1000000) + lifetime))
    if tip and not (old and old.status == new.status and old.node == new.node) then
      tell(tip, row_of(record), record)
    end
    touched[KEYS[1]] = true
    if not old then added = added + index('all', score, key) end
    move('node:', old and old.node, new.node, score, key)
    move('status:', old and old.status, new.status, score, key)
    move('session:', old and old.session, new.session, score, key)
    seen[new.node] = math.max(seen[new.node] or 0, new.arrived)
    if not old and new.request_id ~= '' then point('id:' .. new.request_id, score, key) end
    if new.engine_id ~= '' and not (old and old.engine_id == new.engine_id) then
      if old and old.engine_id ~= '' then redis.call('ZREM', P .. 'engine:' .. old.engine_id, key) end
      point('engine:' .. new.engine_id, score, key)
    end
    local was_open = old and OPEN[old.status]
    if OPEN[new.status] then
      if not was_open then
        redis.call('SADD', P .. 'open:' .. new.owner, key)
        touched[P .. 'open:' .. new.owner] = false
        owners[new.owner] = true
      end
    else
      if was_open then redis.call('SREM', P .. 'open:' .. new.owner, key) end
      if names ~= '' and (not old or was_open or old.status == 'lost') then
        tally(new.arrived, names)
      end
    end
  end
end

if added > 0 then redis.call('INCRBY', P .. 'total', added) end
for owner in pairs(owners) do
  redis.call('SADD', P .. 'owners', owner)
  touched[P .. 'owners'] = false
end
for node, arrived in pairs(seen) do
  redis.call('ZADD', P .. 'nodes-seen', 'GT', text(arrived), node)
  touched[P .. 'nodes-seen'] = true
end
if #finished > 0 then
  redis.call('RPUSH', P .. 'finished', table.concat(finished, '\n'))
  redis.call('EXPIRE', P .. 'finished', lifetime)
end
for bucket, counts in pairs(tallies) do
  local k = P .. bucket
  for field, n in pairs(counts) do
    if redis.call('HEXISTS', k, field) == 0 then
      local kind = string.sub(field, 1, 1)
      if redis.call('HINCRBY', k, '#' .. kind, 1) > MAX_NAMES then field = kind .. ':other' end
    end
    redis.call('HINCRBY', k, field, n)
  end
  redis.call('EXPIRE', k, lifetime + 3600)
end

-- A flood of rejections may not wash the view away: they have a tenth of the room.
local room = math.max(1, math.floor(settings.cap / 10))
local rejected = P .. 'status:rejected'
local excess = redis.call('ZCOUNT', rejected, text(floor), '+inf') - room
if excess > 0 then
  local oldest = redis.call('ZRANGEBYSCORE', rejected, text(floor), '+inf', 'LIMIT', 0, math.min(excess, TRIM))
  for _, key in ipairs(oldest) do
    remove(key)
    redis.call('ZREM', rejected, key)
  end
end

-- Collecting rubbish. No answer waits for it, since all go by the floor.
floor = floor_of(settings)
redis.call('HSET', P .. 'settings', 'floor', text(floor))
redis.call('EXPIRE', P .. 'settings', lifetime)
collect(floor, TRIM)
for k, scored in pairs(touched) do
  if scored then
    local stale = redis.call('ZRANGEBYSCORE', k, '-inf', '(' .. text(floor), 'LIMIT', 0, TRIM)
    -- Members of `all` are removed with their records, above.
    if #stale > 0 and k ~= KEYS[1] then redis.call('ZREM', k, unpack(stale)) end
  end
  redis.call('EXPIRE', k, lifetime)
end
return {accepted, added}
