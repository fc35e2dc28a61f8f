//! `vitals backtest`: what a rule would have raised over the recorded history.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::Value;

use super::database::Database;
use super::error::Error;
use super::progress::TerminalProgress as Bar;
use super::tenants::nothing_of;
use crate::config::Common;
use crate::log::Log;
use crate::query::END_OF_TIME;
use crate::rules::backtest::{
    self, Axis, BacktestOutput, BacktestQuery, BacktestTotals, JobHandle, Report, compared,
    picture, variants,
};
use crate::rules::{Rule, versions};

/// How often the progress is shown.
const LOOK_MS: u64 = 200;
/// Half of them read the history.
const CONNECTIONS_MAX: u32 = 32;

/// Options of `vitals backtest`.
#[derive(Args)]
pub struct Options {
    /// The rule, in TOML
    #[arg(long, value_name = "FILE")]
    rule: PathBuf,
    /// Whose patients
    #[arg(long, value_parser = crate::config::id, default_value = "default")]
    tenant: String,
    /// Readings measured from here on, RFC 3339
    #[arg(long, value_name = "T")]
    from: Option<DateTime<Utc>>,
    /// Until here, not included
    #[arg(long, value_name = "T")]
    to: Option<DateTime<Utc>>,
    /// Compare with the rules at work: what is gained, what is lost
    #[arg(long, value_name = "active", value_parser = ["active"], conflicts_with = "sweep")]
    against: Option<String>,
    /// Try many settings: when.value=110..140/5 on_delay=0s,15s,60s
    #[arg(long, value_name = "KEY=VALUES", num_args = 1..)]
    sweep: Vec<String>,
    /// Where a sweep's picture goes
    #[arg(long, value_name = "FILE", default_value = "backtest.svg")]
    picture: PathBuf,
    /// Write the alerts there as NDJSON; "-" is stdout
    #[arg(long, value_name = "FILE", conflicts_with = "sweep")]
    alerts: Option<PathBuf>,
    /// The numbers as JSON
    #[arg(long)]
    json: bool,
}

/// Tries the rule.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    let file = options.rule.display();
    let text =
        std::fs::read_to_string(&options.rule).map_err(|error| format!("{file}: {error}"))?;
    // Refused before a database is started.
    let rule = Rule::parse(&text, 1).map_err(|error| format!("{file}: {error}"))?;
    let body: Value = toml::from_str(&text)?;
    let axes = options.sweep.iter().map(|axis| axis.parse()).collect::<Result<Vec<Axis>, _>>()?;
    let database = Database::open(common).await?;
    let tried = async {
        let log = database.log(common, database.enduring_pool(CONNECTIONS_MAX)).await?;
        if axes.is_empty() {
            one(&log, &options, rule).await
        } else {
            sweep(&log, &options, &body, &axes).await
        }
    }
    .await;
    database.close().await?;
    tried.map(|()| ExitCode::SUCCESS)
}

/// Runs with a progress bar; what was found, and how long it took.
async fn judged(
    log: &Log,
    options: &Options,
    rules: Vec<Arc<Rule>>,
    lines: Option<BacktestOutput>,
) -> Result<(BacktestTotals, f64), Error> {
    let question = BacktestQuery {
        tenant: options.tenant.clone(),
        from: options.from.unwrap_or(DateTime::UNIX_EPOCH),
        to: options.to.unwrap_or(END_OF_TIME),
        rules,
        keeps_times: options.against.is_some(),
    };
    let (progress, started) = (JobHandle::default(), Instant::now());
    let mut found = std::pin::pin!(backtest::run(log, question, &progress, lines));
    let mut bar: Option<Bar> = None;
    let found = loop {
        tokio::select! {
            found = &mut found => break found?,
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {
                let total = progress.total.load(Ordering::Relaxed);
                if total > 0 {
                    let bar = bar.get_or_insert_with(|| Bar::new("readings", total));
                    bar.at(progress.done.load(Ordering::Relaxed));
                }
            }
        }
    };
    if let Some(bar) = bar {
        bar.end();
    }
    if found.readings == 0 {
        // A table of zeros looks like a rule that never pages.
        let tenant = &options.tenant;
        let said = nothing_of(log, tenant).await?.unwrap_or_else(|| {
            format!("the tenant {tenant} has no reading that this rule looks at, in this time")
        });
        return Err(said.into());
    }
    Ok((found, started.elapsed().as_secs_f64()))
}

async fn one(log: &Log, options: &Options, rule: Rule) -> Result<(), Error> {
    let others = match options.against {
        Some(_) => versions::active(log, &options.tenant).await?,
        None => Vec::new(),
    };
    // Those that tell of the same: by name, or else by what they look at.
    let same: Vec<Rule> =
        others.iter().filter(|other| other.event == rule.event).cloned().collect();
    let others = if same.is_empty() { others } else { same };
    let lines: Option<BacktestOutput> = match &options.alerts {
        None => None,
        Some(path) if path.as_os_str() == "-" => Some(Arc::new(Mutex::new(std::io::stdout()))),
        Some(path) => {
            let file = std::fs::File::create(path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            Some(Arc::new(Mutex::new(std::io::BufWriter::new(file))))
        }
    };
    let named: Vec<String> = others.iter().map(|other| other.id.clone()).collect();
    let rule = Arc::new(rule);
    let rules = std::iter::once(rule.clone()).chain(others.into_iter().map(Arc::new)).collect();
    let (found, seconds) = judged(log, options, rules, lines.clone()).await?;
    if let Some(lines) = lines {
        lines.lock().map_err(|_| "the alerts were not written")?.flush()?;
    }
    let report = Report::of(&found, 0, &rule);
    let against = (!named.is_empty()).then(|| compared(&found));
    let mut out: Box<dyn Write> = match &options.alerts {
        Some(path) if path.as_os_str() == "-" => Box::new(std::io::stderr()),
        _ => Box::new(std::io::stdout()),
    };
    if options.json {
        let body = serde_json::json!({ "report": report, "against": against, "seconds": seconds });
        return Ok(writeln!(out, "{body}")?);
    }
    said(&mut *out, &report, seconds)?;
    if let Some(compared) = against {
        writeln!(
            out,
            "against {}: {} alerts there, {} here, {} of them at the same time; gained {}, lost {}",
            named.join(", "),
            compared.others,
            compared.alerts,
            compared.both,
            compared.gained,
            compared.lost
        )?;
    }
    Ok(())
}

fn said(out: &mut dyn Write, report: &Report, seconds: f64) -> std::io::Result<()> {
    writeln!(
        out,
        "{}: {} readings of {} patients, {:.1} patient-days observed ({seconds:.1} s, {:.0} readings a second)",
        report.rule,
        report.readings,
        report.patients,
        report.patient_days,
        report.readings as f64 / seconds.max(0.001)
    )?;
    writeln!(
        out,
        "{} alerts, {:.3} a patient-day; {} of {} patients have any, the noisiest tenth {:.0} % of them",
        report.alerts,
        report.alerts_per_patient_day,
        report.patients_with_alerts,
        report.patients,
        report.noisiest_tenth_part * 100.0
    )?;
    writeln!(
        out,
        "in alarm {:.2} % of the time; {} repeats and escalations if nobody had answered",
        report.alarm_part * 100.0,
        report.repeats
    )?;
    writeln!(
        out,
        "\n{:<20} {:>9} {:>9} {:>8} {:>14}",
        "ward", "patients", "days", "alerts", "a patient-day"
    )?;
    for ward in &report.wards {
        let name = if ward.ward.is_empty() { "(none)" } else { &ward.ward };
        writeln!(
            out,
            "{name:<20} {:>9} {:>9.1} {:>8} {:>14.3}",
            ward.patients, ward.patient_days, ward.alerts, ward.alerts_per_patient_day
        )?;
    }
    if !report.noisiest.is_empty() {
        writeln!(
            out,
            "\n{:<20} {:>9} {:>8} {:>14}",
            "noisiest patients", "days", "alerts", "in alarm, min"
        )?;
    }
    for patient in &report.noisiest {
        writeln!(
            out,
            "{:<20} {:>9.2} {:>8} {:>14.1}",
            patient.patient_id,
            patient.patient_days,
            patient.alerts,
            patient.alarm_seconds / 60.0
        )?;
    }
    Ok(())
}

async fn sweep(log: &Log, options: &Options, body: &Value, axes: &[Axis]) -> Result<(), Error> {
    let all = variants(body, axes, 1)?;
    let rules: Vec<Arc<Rule>> = all.iter().map(|(_, rule)| rule.clone()).collect();
    let (found, seconds) = judged(log, options, rules, None).await?;
    let reports: Vec<Report> =
        all.iter().enumerate().map(|(n, (_, rule))| Report::of(&found, n, rule)).collect();
    let mut out = std::io::stdout().lock();
    if options.json {
        let rows = all.iter().zip(&reports).map(
            |((setting, _), report)| serde_json::json!({ "setting": setting, "report": report }),
        );
        writeln!(out, "{}", Value::Array(rows.collect()))?;
    } else if let Some(first) = reports.first() {
        writeln!(
            out,
            "{}: {} readings of {} patients, {:.1} patient-days observed, {} settings ({seconds:.1} s)\n",
            first.rule,
            first.readings,
            first.patients,
            first.patient_days,
            reports.len()
        )?;
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let heads: Vec<String> = axes.iter().map(|axis| format!("{:>12}", axis.key)).collect();
        writeln!(
            out,
            "{} {:>8} {:>14} {:>10} {:>9}",
            heads.join(" "),
            "alerts",
            "a patient-day",
            "patients",
            "in alarm"
        )?;
        for ((setting, _), report) in all.iter().zip(&reports) {
            let cells: Vec<String> = setting.iter().map(|v| format!("{:>12}", plain(v))).collect();
            writeln!(
                out,
                "{} {:>8} {:>14.3} {:>10} {:>7.2} %",
                cells.join(" "),
                report.alerts,
                report.alerts_per_patient_day,
                report.patients_with_alerts,
                report.alarm_part * 100.0
            )?;
        }
    }
    let title = format!("{}: alerts a patient-day", reports.first().map_or("", |r| &*r.rule));
    let points: Vec<(Vec<Value>, f64)> = all
        .into_iter()
        .zip(&reports)
        .map(|((setting, _), report)| (setting, report.alerts_per_patient_day))
        .collect();
    std::fs::write(&options.picture, picture(&title, axes, &points))
        .map_err(|error| format!("{}: {error}", options.picture.display()))?;
    eprintln!("picture: {}", options.picture.display());
    Ok(())
}
