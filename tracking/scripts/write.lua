-- Write a batch of records (at most 100), atomically.
--
-- ARGV[3]    facts of the finished requests among them, in their order, a line each: they are left in
--            the log of finished requests, which `sums` counts
-- ARGV[4..]  for each record: key, record (meta, row, detail), names, fresh
--            names: route TAB policy TAB model of a finished request, else empty
--            fresh: '1' where the caller has not sent this key before; it only saves time
-- Returns    {accepted, added}
--
-- A record is taken when nothing is stored under its key, when it is newer and of the same owner, or
-- when the stored one was declared lost and this comes from its owner. Anything else is a repeat, or
-- late, and changes nothing. Index moves go by what is stored, never by what the caller believes.
local STORED = '^(%d+)\t%d+\t([^\t]*)\t(%a+)\t([^\t]*)\t([^\t]*)\t[^\t]*\t([^\t\n]*)' -- META, less of it
local MAX_NAMES = 64     -- distinct routes, policies, models in one bucket; models are the clients' words
local TRIM = 120         -- of each kind of rubbish, per call: a call stays below 5 ms
local TRIM_INDEXES = 1000 -- members of indexes, per call
local RENEW_US = 1000000 -- between calls that renew expiries and look for rubbish in indexes

local now = time_us()
local settings = fleet_settings(now)
local floor = floor_of(settings)
local lifetime = settings.ttl + SLACK_SECONDS
local lives = text(lifetime)
local renew = math.abs(now - settings.renewed) >= RENEW_US
local below, room = '(' .. text(floor), TRIM_INDEXES
local accepted, added, rejections = 0, 0, false
local seen, newest, tallies, expiries = {}, {}, {}, {}
local finished, counted = 0, {} -- how many have come; the numbers of those that count
local tip = feed_tip()

-- Gathered, so that each index is changed in one call: score, key, score, key, ... of what comes, the keys
-- of what leaves. A key is gathered once, so the order of those calls does not matter.
local gathered, all, nodes, statuses, left_nodes, left_statuses, opened, closed

local function gather_anew()
  gathered, all, nodes, statuses, left_nodes, left_statuses, opened, closed = {}, {}, {}, {}, {}, {}, {}, {}
end

-- Members below the floor have left with their records, unless those had expired before.
local function trim(k)
  local stale = math.min(room, call('ZCOUNT', k, '-inf', below))
  if stale > 0 then call('ZREMRANGEBYRANK', k, 0, stale - 1) end
  room = room - stale
end

local function change_indexes()
  local indexes, keys = {}, {}
  if #all > 0 then indexes[P .. 'all'] = all end
  for name, members in pairs(nodes) do indexes[P .. 'node:' .. name] = members end
  for name, members in pairs(statuses) do indexes[P .. 'status:' .. name] = members end
  for k in pairs(indexes) do keys[#keys + 1] = k end
  local new = #keys > 0 and call('EXISTS', unpack(keys)) < #keys
  for k, members in pairs(indexes) do
    local count = call('ZADD', k, unpack(members))
    if members == all then added = added + count end
    if new then call('EXPIRE', k, lives) end
  end
  for name, gone in pairs(left_nodes) do call('ZREM', P .. 'node:' .. name, unpack(gone)) end
  for name, gone in pairs(left_statuses) do call('ZREM', P .. 'status:' .. name, unpack(gone)) end
  for owner, gone in pairs(closed) do call('SREM', P .. 'open:' .. owner, unpack(gone)) end
  for owner, come in pairs(opened) do
    call('SADD', P .. 'open:' .. owner, unpack(come))
    call('EXPIRE', P .. 'open:' .. owner, lives)
    if call('SADD', P .. 'owners', owner) == 1 then call('EXPIRE', P .. 'owners', lives) end
  end
end

-- An index of a few keys, mostly this one alone.
local function point(k, key, score)
  call('ZADD', k, score, key)
  call('EXPIRE', k, lives)
  if renew then trim(k) end
end

local function expiry(arrived)
  local second = math.floor(arrived / 1000000)
  local at = expiries[second]
  if not at then at = text(second + lifetime); expiries[second] = at end
  return at
end

local function tally(arrived, names)
  counted[#counted + 1] = finished
  local minute = math.floor(arrived / 60000000)
  local counts = tallies[minute]
  if not counts then counts = {}; tallies[minute] = counts end
  counts[names] = (counts[names] or 0) + 1
end

local function counted_facts()
  if #counted == finished then return ARGV[3] end
  local lines, kept = {}, {}
  for line in string.gmatch(ARGV[3], '[^\n]+') do lines[#lines + 1] = line end
  for i, number in ipairs(counted) do kept[i] = lines[number] end
  return table.concat(kept, '\n')
end

gather_anew()
for i = 4, #ARGV, 4 do
  local key, record, names, fresh = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1'
  if names ~= '' then finished = finished + 1 end
  if gathered[key] then -- two versions in one batch: one after the other
    change_indexes()
    gather_anew()
  end
  gathered[key] = true
  local k = P .. 'r:' .. key
  local revision, score, owner, status, node, session, request_id, engine_id = match(record, META)
  local arrived, open = score + 0, OPEN[status] -- tonumber reads a string twice
  local had, had_owner, had_status, had_node, had_session, had_engine
  local newer = false
  if arrived < floor then
    -- Not held any more, so neither running: its stored version may be gone already.
    if not open then gather(closed, owner, key) end
  elseif fresh and call('SET', k, record, 'NX', 'EXAT', expiry(arrived)) then
    newer = true
  else
    had, had_owner, had_status, had_node, had_session, had_engine = match(head(k), STORED)
    newer = not had or (had_owner == owner and (tonumber(revision) > tonumber(had) or
      (had_status == 'lost' and tonumber(revision) == tonumber(had))))
    if newer then call('SET', k, record, 'EXAT', expiry(arrived)) end
  end
  if newer then
    accepted = accepted + 1
    local was_open = OPEN[had_status]
    if tip and not (had_status == status and had_node == node) then
      tell(tip, row_of(record), record)
    end
    if not had then
      all[#all + 1] = score
      all[#all + 1] = key
      if request_id ~= '' then point(P .. 'id:' .. request_id, key, score) end
    end
    if had_node ~= node then
      if had then gather(left_nodes, had_node, key) end
      gather(nodes, node, score, key)
    end
    if had_status ~= status then
      if had then gather(left_statuses, had_status, key) end
      gather(statuses, status, score, key)
      rejections = rejections or status == 'rejected'
    end
    if had_session ~= session then
      if had and had_session ~= '' then call('ZREM', P .. 'session:' .. had_session, key) end
      if session ~= '' then point(P .. 'session:' .. session, key, score) end
    end
    if engine_id ~= '' and had_engine ~= engine_id then
      if had and had_engine ~= '' then call('ZREM', P .. 'engine:' .. had_engine, key) end
      point(P .. 'engine:' .. engine_id, key, score)
    end
    if arrived > (seen[node] or 0) then seen[node], newest[node] = arrived, score end
    if open then
      if not was_open then gather(opened, owner, key) end
    else
      if was_open then gather(closed, owner, key) end
      if names ~= '' and (not had or was_open or had_status == 'lost') then tally(arrived, names) end
    end
  end
end
change_indexes()
if added > 0 then call('INCRBY', P .. 'total', added) end

local latest = {}
for node, score in pairs(newest) do
  latest[#latest + 1] = score
  latest[#latest + 1] = node
end
if #latest > 0 and call('ZADD', P .. 'nodes-seen', 'GT', unpack(latest)) > 0 then
  call('EXPIRE', P .. 'nodes-seen', lives)
end

if #counted > 0 then
  local length = call('RPUSH', P .. 'ended', counted_facts())
  if length == 1 then call('EXPIRE', P .. 'ended', lives) end
end
local function count(k, kind, name, n, amount)
  if name == '' then return end
  local field = kind .. ':' .. name
  if call('HINCRBY', k, field, amount) == n then -- a new one
    if call('HINCRBY', k, '#' .. kind, '1') > MAX_NAMES then
      call('HDEL', k, field)
      call('HINCRBY', k, kind .. ':other', amount)
    end
    call('EXPIRE', k, lifetime + 3600)
  elseif renew then
    call('EXPIRE', k, lifetime + 3600)
  end
end
for minute, counts in pairs(tallies) do
  local of_minute = P .. 'minute:' .. settings.epoch .. ':' .. text(minute)
  local of_hour = P .. 'hour:' .. settings.epoch .. ':' .. text(math.floor(minute / 60))
  for names, n in pairs(counts) do
    local route, policy, model = match(names, '^([^\t]*)\t([^\t]*)\t([^\t]*)$')
    local amount = text(n)
    for _, k in ipairs({of_minute, of_hour}) do
      count(k, 'r', route, n, amount)
      count(k, 'p', policy, n, amount)
      count(k, 'm', model, n, amount)
    end
  end
end

-- A flood of rejections may not wash the view away: they have a tenth of the room.
if rejections or renew then
  local rejected = P .. 'status:rejected'
  local excess = call('ZCOUNT', rejected, text(floor), '+inf') - math.max(1, math.floor(settings.cap / 10))
  if excess > 0 then
    local oldest = call('ZRANGEBYSCORE', rejected, text(floor), '+inf', 'LIMIT', 0, math.min(excess, TRIM))
    remove(oldest, floor)
    call('ZREM', rejected, unpack(oldest))
  end
end

-- What a batch touches is not renewed each time: the slack of a lifetime covers the second between.
if renew then
  call('HSET', P .. 'settings', 'renewed', text(now))
  for _, name in ipairs({'all', 'settings', 'nodes-seen', 'owners', 'ended'}) do
    call('EXPIRE', P .. name, lives)
  end
  trim(P .. 'nodes-seen')
  local indexes = {}
  for _, status in ipairs(STATUSES) do indexes[#indexes + 1] = P .. 'status:' .. status end
  for _, node in ipairs(call('ZRANGE', P .. 'nodes-seen', 0, -1)) do indexes[#indexes + 1] = P .. 'node:' .. node end
  for _, k in ipairs(indexes) do
    call('EXPIRE', k, lives)
    trim(k)
  end
end

-- Collecting rubbish. No answer waits for it, since all go by the floor.
floor = floor_of(settings)
call('HSET', P .. 'settings', 'floor', text(floor))
collect(floor, TRIM)
return {accepted, added}
