-- What was revoked in shard $1 after position $2 and up to $3, oldest first.
select tenant, occurred_at, data ->> 'sub' as subject, data ->> 'jti' as token
from non_reading
where shard = $1 and position > $2 and position <= $3 and type = 'token_revoked'
order by position
