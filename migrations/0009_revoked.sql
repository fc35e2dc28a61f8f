-- Found by every process whenever something else than a reading has happened.
create index non_reading_revoked on non_reading (shard, position) where type = 'token_revoked';
