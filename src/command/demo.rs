//! `vitals demo`: everything at once, and a check that it agrees.
//!
//! Guarantees that it uses the platform as outsiders do (HTTP, webhooks, Server-Sent
//! Events) and that it ends with 0 only if what was sent, what the log holds, what
//! the rule should have said and what the receiver verified are the same. Keeps each
//! run in a tenant of its own, so that runs do not meet.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::database::Database;
use super::error::Error;
use super::secret;
use super::serve::{Server, with_long_wait};
use crate::auth::{AUDIENCE, Claims, Keys, Scope};
use crate::clock::Clock;
use crate::config::{Common, Serving, duration};
use crate::delivery::webhook::guard::Allow;
use crate::demo::account::Account;
use crate::demo::bedside::Bedside;
use crate::demo::receiver::Receiver;
use crate::demo::ward::Ward;

/// How often readings that are due are sent.
const TICK_MS: u64 = 50;
/// How often the demo says how it goes.
const REPORT_SECONDS: u64 = 10;
/// How long the last webhooks may take.
const SETTLE_MS_MAX: u64 = 15_000;
const TOKEN_SECONDS: i64 = 7 * 86_400;

/// Options of `vitals demo`.
#[derive(Args)]
pub struct Options {
    /// Stop after this long and say whether all agrees
    #[arg(id = "for", long = "for", value_name = "TIME", value_parser = duration)]
    for_: Option<Duration>,
    /// How much faster than life
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    speed: u32,
    #[command(flatten)]
    serving: Serving,
}

/// Runs the demo.
pub async fn run(common: &Common, options: Options) -> Result<ExitCode, Error> {
    let common = &with_long_wait(common);
    let database = Database::open(common).await?;
    let agreed = demo(common, options, &database).await;
    database.close().await?;
    Ok(if agreed? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn demo(common: &Common, mut options: Options, database: &Database) -> Result<bool, Error> {
    if options.serving.tls_cert.is_some() {
        return Err(
            "the demo's bedside and page speak plain HTTP to it: leave --tls-cert out".into()
        );
    }
    let clock = Clock::system();
    let keys = secret::keys(common)?.of_issuers(&options.serving.jwt_issuer);
    options.serving.allow_webhook_net.push("127.0.0.0/8".parse::<Allow>()?);
    options.serving.is_simulated = true;
    let server = Server::start(common, &options.serving, database, keys.clone()).await?;
    let receiver = Receiver::start(clock.clone()).await?;
    let agreed = show(&options, &clock, &keys, &server, &receiver).await;
    receiver.stop().await?;
    server.stop().await?;
    agreed
}

async fn show(
    options: &Options,
    clock: &Clock,
    keys: &Keys,
    server: &Server,
    receiver: &Receiver,
) -> Result<bool, Error> {
    let ward = Ward::built_in()?;
    let base = format!("http://{}", server.address);
    let tenant = format!("demo-{}", clock.now().timestamp());
    let gateway =
        keys.sign(&claims(keys, clock, &tenant, "demo", &Scope::ALL.map(Scope::name).join(" ")))?;
    let nurse =
        keys.sign(&claims(keys, clock, &tenant, "nurse", "vitals:read alerts:read alerts:ack"))?;
    let mut bedside = Bedside::new(&base, &gateway, clock.clone())?;
    bedside.register(&ward).await?;
    receiver.set_secret(bedside.subscribe(&receiver.url).await?);

    println!(
        "ward       {} patients, {} times faster than life",
        ward.patients().len(),
        options.speed
    );
    println!("dashboard  {base}/#token={nurse}");
    println!("receiver   {} verifies every delivery", receiver.url);
    println!("ready {base}");
    std::io::stdout().flush()?;

    play(options, &ward, &mut bedside, receiver).await?;
    println!("settling");
    let until = Instant::now() + Duration::from_millis(SETTLE_MS_MAX);
    let account = loop {
        let account = Account::draw(&bedside, &ward, receiver).await?;
        if account.agrees() || Instant::now() >= until {
            break account;
        }
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
    };
    bedside.unsubscribe().await?;
    println!("{account}");
    Ok(account.agrees())
}

/// Sends what is due until the time is over or somebody ends it.
async fn play(
    options: &Options,
    ward: &Ward,
    bedside: &mut Bedside,
    receiver: &Receiver,
) -> Result<(), Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
    let started = Instant::now();
    let mut reported = 0;
    bedside.begin(options.speed);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = tick.tick() => {}
        }
        bedside.send_due(ward).await?;
        let elapsed = started.elapsed();
        if elapsed.as_secs() >= reported + REPORT_SECONDS {
            reported = elapsed.as_secs();
            let counts = receiver.counts();
            println!(
                "{reported:>4} s     {} readings acknowledged, {} webhooks verified",
                bedside.acknowledged(),
                counts.verified
            );
            std::io::stdout().flush()?;
        }
        if options.for_.is_some_and(|limit| elapsed >= limit) {
            return Ok(());
        }
    }
}

fn claims(keys: &Keys, clock: &Clock, tenant: &str, subject: &str, scope: &str) -> Claims {
    Claims {
        iss: keys.issuer().to_owned(),
        aud: AUDIENCE.into(),
        sub: subject.to_owned(),
        tenant: Some(tenant.to_owned()),
        scope: scope.to_owned(),
        exp: (clock.now().timestamp() + TOKEN_SECONDS).into(),
        nbf: None,
        iat: None,
        jti: None,
        device: None,
        patient: None,
        wards: None,
    }
}
