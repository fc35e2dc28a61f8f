-- A fold that nobody waits for gives way to what comes in: its scan of a window rests for a
-- moment every so many positions, so that its work is spread and not done in one piece.
-- The consumer says how long, for its transaction; where nobody says so, not at all.
-- Of SQL, so that it becomes part of the scan's filter: a call for each reading would cost
-- more than the reading.
create function rested(at_position bigint) returns boolean language sql volatile as $$
    select at_position & 255 <> 0
        or pg_sleep(coalesce(nullif(current_setting('vitals.rest_ms', true), ''), '0')::float8 / 1000)
           is not null
$$;
