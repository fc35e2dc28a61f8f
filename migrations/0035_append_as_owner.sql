-- Only the owner of the log writes it: who may append, may call this function and no more,
-- and needs no right to insert an event, to write a commit or to move a head. Names are
-- looked up in public, and never in what a session has made for itself.
-- Locks: none; the function's attributes are changed.

alter function append_events security definer;
alter function append_events set search_path = public, pg_temp;
revoke execute on function append_events from public;
