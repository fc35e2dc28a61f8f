//! The command line: the commands, their options, and which of them is run.
//!
//! Guarantees that what does not depend on a command is done once, before any.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use super::error::Error;
use super::{
    archive, backtest, demo, import, migrate, parked, reach, rebuild, replay, serve, token, verify,
};
use crate::config::{self, Common};
use crate::telemetry;

/// Vitals: readings in, an immutable log, rules, signed webhooks out, and questions
/// about any moment.
#[derive(Parser)]
#[command(name = "vitals", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Migrate, then run the API and the workers
    Serve(serve::Options),
    /// A ward of simulated patients, a receiver that verifies, the page
    Demo(demo::Options),
    /// Print a token
    Token(token::Options),
    /// Append recorded readings
    Import(import::Options),
    /// Print a patient's events as NDJSON
    Replay(replay::Options),
    /// Migrate the database as the owner of the log, and end
    Migrate,
    /// Rebuild a projection from the log beside the live one, compare, swap
    Rebuild(rebuild::Options),
    /// List the patients that a projection, the rules or the webhooks could not go on with
    Parked,
    /// Take a parked patient up again
    Resume(parked::Options),
    /// Check the hash chain, and every projection against the log
    Verify(verify::Options),
    /// What a rule would have raised over the recorded history
    Backtest(backtest::Options),
    /// Move months that are over into Parquet files
    Archive(archive::Options),
}

/// The program's commands and options, for who describes them.
pub fn options() -> clap::Command {
    Cli::command()
}

/// Runs the command of these arguments.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Err(error) = leave_surroundings(&arguments) {
        eprintln!("vitals: {error}");
        return ExitCode::FAILURE;
    }
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vitals: {}", reach::without_lines(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Begins anew without the variables of PostgreSQL's own programs, if there are any: every
/// connection is made of what our options say, also one to the embedded database, and the
/// library that makes it would look at them.
fn leave_surroundings(arguments: &[OsString]) -> Result<(), Error> {
    let names: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("PG"))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let said: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    let said = said.join(", ");
    eprintln!("vitals: not looked at: {said}; --database-url says all of a database");
    let mut anew = std::process::Command::new(std::env::current_exe()?);
    if let Some((name, rest)) = arguments.split_first() {
        anew.arg0(name).args(rest);
    }
    names.iter().for_each(|name| _ = anew.env_remove(name));
    // Only an error returns.
    let error = anew.exec();
    Err(format!("this program could not begin without {said}: {error}; unset them").into())
}

fn parse(arguments: &[OsString]) -> Result<Cli, ExitCode> {
    let fail = |error: &dyn std::fmt::Display| {
        eprintln!("vitals: {error}");
        ExitCode::from(2)
    };
    let command = config::with_file(Cli::command(), named_config(arguments).as_deref())
        .map_err(|error| fail(&error))?;
    // The name that everybody knows, below our own variable and above the file.
    let command = match std::env::var_os("DATABASE_URL").filter(|url| !url.is_empty()) {
        // It may hold a password, which is nothing for --help.
        Some(url) => {
            command.mut_arg("database_url", |arg| arg.default_value(url).hide_default_value(true))
        }
        None => command,
    };
    let collector = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|url| !url.is_empty());
    let collector = collector.map(|url| ("otlp_endpoint".to_owned(), url));
    let command = config::set_defaults(command, collector.as_slice());
    let matches = command.try_get_matches_from(arguments).map_err(exit_of)?;
    Cli::from_arg_matches(&matches).map_err(exit_of)
}

/// Help and version are results, everything else is a mistake.
fn exit_of(error: clap::Error) -> ExitCode {
    if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// `--config` has to be known before the others can be read.
fn named_config(arguments: &[OsString]) -> Option<std::path::PathBuf> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return rest.next().map(Into::into);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("VITALS_CONFIG").map(Into::into)
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let Cli { common, command } = cli;
    telemetry::log(&common.log, common.log_format)?;
    // For webhooks and for PostgreSQL over TLS; the second time it is there already.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::trace!("the TLS provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Serve(options) => serve::run(&common, options).await,
            Command::Demo(options) => demo::run(&common, options).await,
            Command::Token(options) => token::run(&common, &options),
            Command::Import(options) => import::run(&common, options).await,
            Command::Replay(options) => replay::run(&common, options).await,
            Command::Migrate => migrate::run(&common).await,
            Command::Rebuild(options) => rebuild::run(&common, &options).await,
            Command::Parked => parked::list(&common).await,
            Command::Resume(options) => parked::resume(&common, &options).await,
            Command::Verify(options) => verify::run(&common, &options).await,
            Command::Backtest(options) => backtest::run(&common, options).await,
            Command::Archive(options) => archive::run(&common, &options).await,
        }
    });
    // A name server that hangs must not hold the end of the process.
    runtime.shutdown_background();
    result
}
