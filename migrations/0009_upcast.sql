-- Events are read as the newest version of their schema. Locks: none, a new function.
--
-- The one place where what an older version of the program wrote becomes what this one
-- reads: in queries, folds, rules and fan-out alike. Rows stay as they were written,
-- because the chain covers their text. Each step goes from one version to the next; an
-- event of the newest version, and what has no version, is returned as it is.
--
-- Alerts (types in upper case, of patients), 1 to 2: why it was raised. Version 1 knew
-- rules that one reading raises, so that reading is all there was to know.
create function event_data(in_type text, in_data json) returns json
language sql immutable parallel safe as $$
    select case
        when in_type ~ '^[A-Z]' and in_data ->> 'v' = '1' and in_data ->> 'alertId' is not null
             and in_data ->> 'since' is not null
        then (in_data::jsonb
              || jsonb_build_object('v', 2)
              || case when in_data -> 'because' is null
                      then jsonb_build_object('because', jsonb_build_object(
                               'heldSince', in_data -> 'since', 'samples', 1))
                      else '{}' end)::json
        else in_data
    end
$$;
