-- lock_settle: publishes the end of a lock that has ended, if no other call has done so.
--
-- KEYS[1..7] – the lock's keys (include/lock.lua)
-- ARGV[1] – name      ARGV[2] – name as JSON string
--
-- Returns {left}: time in ms until the lease of the lock ends; -1 if it is not held through Rollcall.
--
-- Races: several nodes may check one lock. The first that finds it ended removes the record and
-- publishes the end in one step. A lock that was extended in the meantime keeps its entry in the
-- index, with the new time.
-- @include lock
local record, held_by = look(ARGV[1], ARGV[2])
if record then
  indexed(ARGV[1], record[ENDS])
else
  forgotten(ARGV[1])
end
if not held_by then
  wake_next()
end
return { record and math.max(record[ENDS] - now, 0) or -1 }
