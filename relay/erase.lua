-- Puts other bytes in the place of one entry of a log, if it is there.
-- KEYS[1]  the log
-- ARGV     position, member
-- returns  entries replaced
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[1])
for i = 1, #found do
  redis.call('ZREM', KEYS[1], found[i])
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
end
return #found
