-- What happened after a place in the feed. Asking makes the feed, and keeps it for some minutes more.
--
-- ARGV[3] epoch  ARGV[4] number  of the last event seen; both empty: from now on
-- ARGV[5] most events; there may be fewer, if their rows are large
-- Returns {tip, id, row, reason, id, row, reason, ...}
--   tip  id of the last event there is. Another epoch than the one given: the feed is another one, and
--        these are its events from the first it has
--   row  as in lists; empty where something was deleted. reason: that of the decision, or empty
local KEEP_SECONDS = 300
local CHUNK = 50
local MOST_BYTES = 524288 -- of rows, about, so that large ones cannot hold up the server

local feed = P .. 'feed'
local tip = feed_tip()
if not tip then
  tip = {epoch = text(time_us()), number = 0}
  redis.call('XADD', feed, tip.epoch .. '-0', 'row', '', 'reason', '')
end
redis.call('EXPIRE', feed, KEEP_SECONDS)

local told = {tip.epoch .. '-' .. text(tip.number)}
if ARGV[3] ~= '' then
  local from, left, bytes = '-', tonumber(ARGV[5]), 0
  if ARGV[3] == tip.epoch then from = tip.epoch .. '-' .. text(tonumber(ARGV[4]) + 1) end
  while left > 0 and bytes < MOST_BYTES do
    local chunk = redis.call('XRANGE', feed, from, '+', 'COUNT', math.min(left, CHUNK))
    for _, event in ipairs(chunk) do
      told[#told + 1] = event[1]
      told[#told + 1] = event[2][2]
      told[#told + 1] = event[2][4]
      bytes = bytes + #event[2][2]
    end
    if #chunk < CHUNK then break end
    local epoch, number = string.match(chunk[#chunk][1], '^(%d+)-(%d+)$')
    from, left = epoch .. '-' .. text(tonumber(number) + 1), left - #chunk
  end
end
return told
