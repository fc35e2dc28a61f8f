-- Whether anything was ever heard of patient $3 of tenant $2, in shard $1, and what was
-- recorded of them last ($4 is the event's type). By the natural key, which also has what
-- is no reading.
select exists (select from event where shard = $1 and tenant = $2 and patient_id = $3),
       (select (data -> 'record')::text
        from event
        where shard = $1 and tenant = $2 and patient_id = $3 and vital is null and type = $4
        order by position desc
        limit 1)
