//! Archives that somebody meddled with: verify finds it, names it, and says no.

use std::path::Path;

use vitals::archive::{Access, ArchiveRow, File, StoredObject, Writer};
use vitals::log::partition::Span;

use crate::archive::ward::{Ward, copy, run};
use crate::support::cli;

async fn open(path: &Path) -> File {
    let object = StoredObject::at(path.to_str().unwrap(), &Access::default()).unwrap();
    File::open(object).await.unwrap()
}

async fn rows_of(path: &Path) -> Vec<ArchiveRow> {
    let file = open(path).await;
    let mut rows = Vec::new();
    for group in &file.groups {
        rows.extend(file.read(*group).await.unwrap());
    }
    rows
}

/// Writes other rows under the same name, as somebody would who knows the format, and
/// makes the database believe that this is the file.
async fn forge(ward: &Ward, path: &Path, rows: Vec<ArchiveRow>) {
    let mut about = open(path).await.about;
    let object = StoredObject::at(path.to_str().unwrap(), &Access::default()).unwrap();
    let mut writer = Writer::new(&object).unwrap();
    let mut shard = None;
    for row in rows {
        if shard.replace(row.recorded.shard) != Some(row.recorded.shard) {
            writer.end_group().await.unwrap();
        }
        writer.add(row).await.unwrap();
    }
    let written = writer.finish(|rows, _| {
        about.rows = rows;
        about
    });
    let written = written.await.unwrap();
    sqlx::query("update archived_month set file_hash = $1, rows = $2 where partition = $3")
        .bind(written.file_hash.as_slice())
        .bind(written.rows as i64)
        .bind(path.file_stem().unwrap().to_str().unwrap())
        .execute(&ward.pool)
        .await
        .unwrap();
}

/// Verify says no, and names each of these.
async fn is_found(ward: &Ward, deed: &str, named: &[&str]) {
    let (sound, said) = ward.verify().await;
    assert!(!sound && said.contains("NOT VERIFIED"), "{deed}: {said}");
    for name in named {
        assert!(said.contains(name), "{deed}: nothing of {name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_changed_in_the_file_is_found_even_if_the_files_hash_was_forged() {
    let ward = Ward::new().await;
    ward.archive("2026-02").await;
    let path = ward.file("event_2026_01");
    let (bytes, honest) = (copy(&path), rows_of(&path).await);
    let hash = "create table kept_month as table archived_month";
    run(&ward.pool, hash).await;
    let not_kept = honest.iter().position(|row| !row.kept).unwrap();
    let kept = honest.iter().rposition(|row| row.kept).unwrap();
    let at = |i: usize| format!("shard {}, position", honest[i].recorded.shard);
    type Deed = (&'static str, usize, fn(&mut Vec<ArchiveRow>, usize));
    let deeds: [Deed; 9] = [
        ("a value", not_kept, |rows, i| rows[i].recorded.event.value = Some(61.25)),
        ("a time", not_kept, |rows, i| {
            rows[i].recorded.event.occurred_at += chrono::TimeDelta::microseconds(1);
        }),
        ("a time of recording", not_kept, |rows, i| {
            rows[i].recorded.recorded_at += chrono::TimeDelta::microseconds(1);
        }),
        ("a patient", not_kept, |rows, i| rows[i].recorded.event.patient_id = "x".into()),
        ("a row that is gone", not_kept, |rows, i| drop(rows.remove(i))),
        ("a row too many", not_kept, |rows, i| {
            let mut row = rows[i].clone();
            row.recorded.position = 0;
            let shard = row.recorded.shard;
            let first = rows.iter().position(|r| r.recorded.shard == shard).unwrap();
            rows.insert(first, row);
        }),
        ("two rows that changed places", not_kept, |rows, i| {
            let (a, b) = (rows[i].recorded.event.clone(), rows[i + 1].recorded.event.clone());
            (rows[i].recorded.event, rows[i + 1].recorded.event) = (b, a);
        }),
        ("a kept row, otherwise", kept, |rows, i| rows[i].recorded.event.source_id = "x".into()),
        ("a kept row that is gone", kept, |rows, i| drop(rows.remove(i))),
    ];
    for (deed, i, tamper) in deeds {
        let mut rows = honest.clone();
        tamper(&mut rows, i);
        forge(&ward, &path, rows).await;
        is_found(&ward, deed, &["2026-01", &at(i)]).await;
        // Nor does it come back.
        let import = ["import", "--format", "parquet", path.to_str().unwrap()];
        let output = cli(&ward.database, &import).await;
        assert!(!output.status.success(), "{deed}: {output:?}");
        std::fs::write(&path, &bytes).unwrap();
        run(&ward.pool, "truncate archived_month; insert into archived_month table kept_month")
            .await;
    }
    ward.is_sound().await;
    ward.back("event_2026_01").await;
    ward.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_changed_in_the_thin_table_is_found() {
    let ward = Ward::new().await;
    ward.archive("2026-02").await;
    let table = Span::of_table("reading_2026_01").unwrap().table();
    run(&ward.pool, &format!("create table kept_rows as table {table}")).await;
    run(&ward.pool, "create table kept_others as table non_reading").await;
    let one = "(select position from kept_rows order by shard, position limit 1)";
    let alert = "(select min(position) from non_reading where occurred_at >= '2026-01-01' \
                  and occurred_at < '2026-02-01')";
    let file = rows_of(&ward.file("event_2026_01")).await;
    let gone = file.iter().find(|row| !row.kept).unwrap();
    let shard = "(select shard from kept_rows order by shard, position limit 1)";
    let insert = format!(
        "insert into {table} select {}, occurred_at + interval '1 ms', recorded_at, value, series, \
             quality, shard, suspect from kept_rows where shard = {} limit 1",
        gone.recorded.position, gone.recorded.shard
    );
    for (deed, sql, what) in [
        (
            "changed",
            format!(
                "update {table} set value = value + 1 where position = {one} and shard = {shard}"
            ),
            "otherwise than the archive",
        ),
        (
            "removed",
            format!("delete from {table} where position = {one} and shard = {shard}"),
            "has it no more",
        ),
        (
            "an event removed",
            format!("delete from non_reading where position = {alert}"),
            "has it no more",
        ),
        ("inserted", insert, "has it still, or again"),
    ] {
        // Not even a change passes while the constraint stands.
        let drop = format!("alter table {table} drop constraint if exists month_archived");
        run(&ward.pool, &drop).await;
        assert!(run(&ward.pool, &sql).await > 0, "{deed}: {sql}");
        is_found(&ward, deed, &["archived with 2026-01", "position", what]).await;
        run(
            &ward.pool,
            &format!(
                "alter table {table} drop constraint if exists month_archived; \
                 truncate {table}; insert into {table} table kept_rows; \
                 truncate non_reading; insert into non_reading table kept_others; \
                 alter table {table} add constraint month_archived check (false) not valid"
            ),
        )
        .await;
        ward.is_sound().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_broken_moved_or_gone_is_named_with_its_month() {
    let ward = Ward::new().await;
    ward.archive("2026-02").await;
    let path = ward.file("event_2026_01");
    let bytes = copy(&path);
    // A flipped bit anywhere: at the beginning, among the rows, in the footer, at the end.
    for part in 0..12 {
        let mut flipped = bytes.clone();
        let at = (part * (bytes.len() - 1)) / 11;
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        is_found(&ward, &format!("byte {at} of {}", bytes.len()), &["2026-01"]).await;
    }
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    is_found(&ward, "cut off", &["2026-01", path.to_str().unwrap(), "NOT CHECKED"]).await;
    std::fs::remove_file(&path).unwrap();
    is_found(&ward, "gone", &["2026-01", path.to_str().unwrap(), "no such file"]).await;

    // Moved with its folder, and the operator says where to.
    std::fs::write(&path, &bytes).unwrap();
    let elsewhere = ward.to.with_extension("moved");
    std::fs::rename(&ward.to, &elsewhere).unwrap();
    assert!(!ward.verify().await.0);
    let output = cli(&ward.database, &["verify", "--archives", elsewhere.to_str().unwrap()]).await;
    assert!(output.status.success(), "{output:?}");
}
