//! `vitals import` as somebody meets it who has files: pipes, damage, what is passed over.

use std::path::Path;
use std::process::{Output, Stdio};

use sqlx::PgPool;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::postgres::Database;
use crate::support::{case, cli, scratch_dir, server};

/// So many lines are several reads of a pipe, and more than any buffer on the way holds.
const LINES: usize = 5_000;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Readings of one patient, a second apart, from a number on.
fn ndjson(patient: &str, lines: usize) -> String {
    (0..lines)
        .map(|n| {
            let (minute, second) = (n / 60, n % 60);
            let (hour, minute) = (minute / 60, minute % 60);
            format!(
                "{{\"patientId\":\"{patient}\",\"deviceId\":\"w\",\"vital\":\"heart_rate\",\
                 \"value\":80,\"measuredAt\":\"2026-01-05T{hour:02}:{minute:02}:{second:02}Z\"}}\n"
            )
        })
        .collect()
}

fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn last_line(output: &Output) -> String {
    text(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn sums(stored: usize, duplicates: usize, rejected: usize, skipped: usize) -> String {
    format!("stored={stored} duplicates={duplicates} rejected={rejected} skipped={skipped}")
}

/// Runs an import with this on its standard input.
async fn fed(database: &Database, arguments: &[&str], bytes: &[u8]) -> Output {
    let dir = scratch_dir();
    let mut child = server::command(&dir, Some(&database.url))
        .arg("import")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let feeder = tokio::spawn(async move { input.write_all(&bytes).await });
    let output = child.wait_with_output().await.unwrap();
    feeder.await.unwrap().unwrap();
    output
}

#[tokio::test]
async fn a_pipe_is_read_once_and_from_its_beginning() {
    let database = Database::new().await;
    for (n, name) in ["-", "/dev/stdin"].into_iter().enumerate() {
        let lines = ndjson(&format!("in-{n}"), LINES);
        let output = fed(&database, &["--format", "ndjson", name], lines.as_bytes()).await;
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        assert_eq!(last_line(&output), sums(LINES, 0, 0, 0), "{name}");
    }
    let csv = "patientId,deviceId,vital,value,unit,measuredAt\n\
               c,w,heart_rate,80,,2026-01-05T00:00:00Z\n";
    let output = fed(&database, &["--format", "csv", "-"], csv.as_bytes()).await;
    assert_eq!(last_line(&output), sums(1, 0, 0, 0), "{}", text(&output.stderr));

    // A pipe with a name, and one that a shell makes: opened twice, both would hang or be cut.
    let dir = scratch_dir();
    let fifo = dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().await.unwrap().success());
    let (to, lines) = (fifo.clone(), ndjson("fifo", LINES));
    let writer = tokio::spawn(tokio::fs::write(to, lines));
    let output = cli(&database, &["import", "--format", "ndjson", fifo.to_str().unwrap()]).await;
    assert_eq!(last_line(&output), sums(LINES, 0, 0, 0), "{}", text(&output.stderr));
    writer.await.unwrap().unwrap();
    let path = file(&dir, "lines", ndjson("shell", LINES));
    let mut shell = Command::new("bash");
    shell
        .args(["-c", "\"$0\" import --format ndjson <(cat \"$1\")", env!("CARGO_BIN_EXE_vitals")])
        .arg(&path)
        .env("VITALS_DATABASE_URL", &database.url);
    let output = shell.output().await.unwrap();
    assert_eq!(last_line(&output), sums(LINES, 0, 0, 0), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_spares_the_others() {
    let (database, dir) = (Database::new().await, scratch_dir());
    let head = "patientId,deviceId,vital,value,unit,measuredAt\n";
    let row = |patient: &str| format!("{patient},w,heart_rate,80,,2026-01-05T00:00:00Z\n");
    let good = file(&dir, "good.csv", format!("{head}{}", row("1")));
    let headless = file(&dir, "headless.csv", row("2"));
    let packed = {
        use std::io::Write;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let rows: String = (0..5_000).map(|n| row(&format!("cut-{n}"))).collect();
        gzip.write_all(format!("{head}{rows}").as_bytes()).unwrap();
        gzip.finish().unwrap()
    };
    let cut = file(&dir, "cut.csv.gz", &packed[..packed.len() - 9]);
    let last = file(&dir, "last.csv", format!("{head}{}", row("3")));
    let gone = dir.join("gone.csv").to_str().unwrap().to_owned();
    for speed in ["max", "100000"] {
        let arguments = ["import", "--format", "csv", "--speed", speed, "--tenant", speed];
        let files = [&*headless, &good, &gone, &cut, &last];
        let output = cli(&database, &[&arguments[..], &files[..]].concat()).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for name in [&headless, &gone, &cut] {
            assert!(said.contains(name.as_str()), "{name}: {said}");
        }
        assert!(said.contains("3 files were not read to their end"), "{said}");
        let patients: Vec<String> = sqlx::query_scalar(
            "select patient_id from event where tenant = $1 and patient_id !~ '^cut' order by 1",
        )
        .bind(speed)
        .fetch_all(&database.pool())
        .await
        .unwrap();
        assert_eq!(patients, ["1", "3"], "{speed}");
    }

    let fit = |name: &str| {
        crate::support::data(&format!("wearable-fit/{name}.fit")).to_str().unwrap().to_owned()
    };
    let files = [
        fit("fit-invalid/activity-filecrc"),
        fit("fit-no-gps/antfs-dump.63"),
        fit("fit-invalid/activity-unexpected-eof"),
        case("fit/karoo.fit").to_str().unwrap().to_owned(),
    ];
    let arguments = ["import", "--format", "fit", "--patient", "p", "--device", "d"];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let output = cli(&database, &[&arguments[..], &files].concat()).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(last_line(&output).starts_with("stored=687 duplicates=0 rejected=0 "), "{said}");
    assert!(said.contains(files[0]) && said.contains(files[2]), "{said}");
}

/// The times and values of what a file's device has stored.
async fn stored(pool: &PgPool, device: &str) -> Vec<(String, f64)> {
    sqlx::query_as(
        "select to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS'), value \
         from event where source_id = $1 order by occurred_at",
    )
    .bind(device)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn fit(database: &Database, path: &Path, device: &str) -> (String, String) {
    let path = path.to_str().unwrap();
    let arguments = ["import", "--format", "fit", "--patient", "p", "--device", device, path];
    let output = cli(database, &arguments).await;
    let said = text(&output.stderr);
    assert!(output.status.success(), "{path}: {said}");
    (last_line(&output), said)
}

#[tokio::test]
async fn what_a_watch_has_written_is_read_as_far_as_it_can_be_and_the_rest_is_named() {
    let database = Database::new().await;
    let pool = database.pool();
    let of = |minutes: [i64; 2]| format!("2026-11-20 08:{:02}:{:02}", minutes[0], minutes[1]);
    // Through the day, with the lower halves of times.
    let (sum, said) = fit(&database, &case("fit/monitoring.fit"), "monitoring").await;
    assert_eq!(sum, sums(3, 0, 0, 2), "{said}");
    assert!(said.contains("1 file_id, 1 monitoring without a heart rate"), "{said}");
    let expected = [(of([1, 0]), 62.0), (of([2, 0]), 64.0), (of([3, 0]), 66.0)];
    assert_eq!(stored(&pool, "monitoring").await, expected);
    // A field of a developer's that nothing has described yet.
    let (sum, said) = fit(&database, &case("fit/karoo.fit"), "karoo").await;
    assert_eq!(sum, sums(2, 0, 0, 3), "{said}");
    let expected = [(of([0, 0]), 130.0), (of([0, 1]), 131.0)];
    assert_eq!(stored(&pool, "karoo").await, expected);
    // Zeros after the end.
    let (sum, said) = fit(&database, &case("fit/trailing.fit"), "trailing").await;
    assert_eq!(sum, sums(2, 0, 0, 2), "{said}");
    assert!(said.contains("1 end that is 4 zeros"), "{said}");
    assert_eq!(stored(&pool, "trailing").await, [(of([0, 0]), 70.0), (of([0, 1]), 71.0)]);
}

#[tokio::test]
async fn who_looks_where_nothing_is_is_told_what_there_is() {
    let (database, dir) = (Database::new().await, scratch_dir());
    for arguments in [&["verify"][..], &["rebuild", "all"]] {
        let output = cli(&database, arguments).await;
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stderr).contains("the log is empty"), "{output:?}");
    }
    for tenant in ["ward-4b", "default"] {
        let path = file(&dir, tenant, ndjson("p", 3));
        let output =
            cli(&database, &["import", "--format", "ndjson", "--tenant", tenant, &path]).await;
        assert_eq!(text(&output.stdout), format!("tenant={tenant}\n{}\n", sums(3, 0, 0, 0)));
    }
    let replay = async |arguments: &[&str]| {
        let output = cli(&database, &[&["replay"], arguments].concat()).await;
        (output.status.code(), text(&output.stdout).lines().count(), text(&output.stderr))
    };
    let (code, lines, said) = replay(&["--tenant", "ward-4c", "--patient", "p"]).await;
    assert_eq!((code, lines), (Some(1), 0), "{said}");
    assert!(said.contains("ward-4c") && said.contains("there is default, ward-4b"), "{said}");
    let (code, lines, said) = replay(&["--patient", "q"]).await;
    assert_eq!((code, lines), (Some(1), 0), "{said}");
    assert!(said.contains("the tenant default has no patient q"), "{said}");
    let (code, lines, said) = replay(&["--patient", "p", "--from", "2027-01-01T00:00:00Z"]).await;
    assert_eq!((code, lines), (Some(0), 0), "{said}");
    assert!(said.contains("nothing of that time"), "{said}");
    assert_eq!(replay(&["--patient", "p"]).await, (Some(0), 3, String::new()));
    let verified = cli(&database, &["verify"]).await;
    assert!(!text(&verified.stderr).contains("empty"), "{verified:?}");
}
