-- What happened after a place in the feed. Asking makes the feed, and keeps it for some minutes more.
--
-- ARGV[3] epoch  ARGV[4] number  of the last event seen; both empty: from now on
-- ARGV[5] most events
-- Returns {tip, id, row, reason, id, row, reason, ...}
--   tip  id of the last event there is. Another epoch than the one given: the feed is another one, and
--        these are its events from the first it has
--   row  as in lists; empty where something was deleted. reason: that of the decision, or empty
local KEEP_SECONDS = 300

local feed = P .. 'feed'
local tip = feed_tip()
if not tip then
  tip = {epoch = text(time_us()), number = 0}
  redis.call('XADD', feed, tip.epoch .. '-0', 'row', '', 'reason', '')
end
redis.call('EXPIRE', feed, KEEP_SECONDS)

local told = {tip.epoch .. '-' .. text(tip.number)}
if ARGV[3] ~= '' then
  local from = '-'
  if ARGV[3] == tip.epoch then from = tip.epoch .. '-' .. text(tonumber(ARGV[4]) + 1) end
  for _, event in ipairs(redis.call('XRANGE', feed, from, '+', 'COUNT', ARGV[5])) do
    told[#told + 1] = event[1]
    told[#told + 1] = event[2][2]
    told[#told + 1] = event[2][4]
  end
end
return told
