-- Whether anything was ever heard of patient $3 of tenant $2, in shard $1, and what was
-- recorded of them last ($4 is the event's type). Who has a series has had a reading.
select exists (select from series where shard = $1 and tenant = $2 and patient_id = $3)
       or exists (select from non_reading where shard = $1 and tenant = $2 and patient_id = $3),
       (select (data -> 'record')::text
        from non_reading
        where shard = $1 and tenant = $2 and patient_id = $3 and type = $4
        order by position desc
        limit 1)
