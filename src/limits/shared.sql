-- Tells how much was used here, and says what all processes have told since $5 seconds ago.
--   $1 this process   $2, $3, $4 limit, subject and nanoseconds of what is told
-- Who tells takes the rows in the order of their key, so that no two wait for each other.
-- Answers limit, subject, and for how many nanoseconds from now it flows back; with a null
-- limit how many processes were seen within $6 seconds.
with alive as (
    insert into rate_process values ($1, statement_timestamp())
    on conflict (id) do update set seen_at = excluded.seen_at
), told as (
    insert into rate_use as u (limited, subject, until, told_at)
    select limited, subject, statement_timestamp() + make_interval(secs => ns / 1e9), statement_timestamp()
    from unnest($2::smallint[], $3::bytea[], $4::bigint[]) t (limited, subject, ns)
    order by limited, subject
    on conflict (limited, subject) do update
    set until = greatest(u.until, statement_timestamp()) + (excluded.until - statement_timestamp()),
        told_at = excluded.told_at
    returning limited, subject, until
)
select limited, subject, (extract(epoch from until - statement_timestamp()) * 1e9)::bigint as ns
from told
union all
select limited, subject, (extract(epoch from until - statement_timestamp()) * 1e9)::bigint
from rate_use
where told_at > statement_timestamp() - make_interval(secs => $5)
  and (limited, subject) not in (select limited, subject from told)
union all
select null, null, count(*) + 1
from rate_process
where seen_at > statement_timestamp() - make_interval(secs => $6) and id <> $1
