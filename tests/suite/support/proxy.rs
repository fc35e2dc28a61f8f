//! A way to PostgreSQL that can be slow, stuck, one-way or cut.
//!
//! Its address stays the same whatever happens behind it, also over a restart of the
//! server. A way that was cut breaks what runs through it, and lets nothing new
//! through until it is opened again.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::postgres::Database;

/// What is done to what runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Each message to PostgreSQL waits so long.
    Slow(Duration),
    /// Nothing gets through, and nothing breaks.
    Stuck,
    /// Questions get through, answers do not: what is committed now is not known of.
    Deaf,
    /// Connections break, and new ones are refused.
    Cut,
}

/// A running proxy.
pub struct Proxy {
    /// How the program reaches PostgreSQL through it.
    pub url: String,
    way: watch::Sender<Way>,
    /// What new connections lead to.
    target: watch::Sender<PgConnectOptions>,
    /// How often all connections of the moment were made to swallow.
    swallowed: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Before a test's database.
    pub async fn before(database: &Database) -> Proxy {
        let options: PgConnectOptions = database.url.parse().expect("a database URL");
        Proxy::to(&options, &database.url).await
    }

    /// Before a server; user and database are those of `options`.
    pub async fn before_server(options: &PgConnectOptions) -> Proxy {
        let name = options.get_database().expect("a database");
        let url = format!("postgres://{}@localhost/{name}", options.get_username());
        Proxy::to(options, &url).await
    }

    async fn to(options: &PgConnectOptions, url: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut url = reqwest::Url::parse(url).expect("a URL");
        url.set_query(None);
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(listener.local_addr().expect("an address").port())).expect("a port");
        let way = watch::Sender::new(Way::Open);
        let (target, options) = watch::channel(options.clone());
        let (state, swallowed) = (way.subscribe(), watch::Sender::new(0));
        let swallows = swallowed.subscribe();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let options = options.borrow().clone();
                let (state, swallows) = (state.clone(), swallows.clone());
                tokio::spawn(run(client, options, state, swallows));
            }
        });
        Proxy { url: url.into(), way, target, swallowed, accepting }
    }

    /// Changes the way, also for what runs through it already.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Breaks all connections, and leads new ones to another server.
    pub fn move_to(&self, options: &PgConnectOptions) {
        self.set(Way::Cut);
        self.target.send_replace(options.clone());
        self.set(Way::Open);
    }

    /// From now on the connections of this moment swallow whatever is sent, and never
    /// break: what a machine leaves behind that has vanished.
    pub fn swallow(&self) {
        self.swallowed.send_modify(|times| *times += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Way::Cut);
    }
}

async fn run(
    mut client: TcpStream,
    options: PgConnectOptions,
    way: watch::Receiver<Way>,
    mut swallows: watch::Receiver<usize>,
) {
    swallows.mark_unchanged();
    let mut cut = way.clone();
    let swallowed = tokio::select! {
        _ = cut.wait_for(|way| *way == Way::Cut) => false,
        changed = swallows.changed() => changed.is_ok(),
        () = pass(&mut client, &options, way) => false,
    };
    if swallowed {
        // The other side is gone, and this one is kept until all of this ends.
        while swallows.changed().await.is_ok() {}
    }
}

async fn pass(client: &mut TcpStream, options: &PgConnectOptions, way: watch::Receiver<Way>) {
    // A small message must not wait for a second one: only this proxy makes slow.
    client.set_nodelay(true).expect("a socket's option");
    // A server that is away refuses, and so does this by breaking off.
    match options.get_socket() {
        Some(dir) => {
            let path = dir.join(format!(".s.PGSQL.{}", options.get_port()));
            if let Ok(server) = UnixStream::connect(path).await {
                pump_both(client, server, way).await;
            }
        }
        None => {
            let address = (options.get_host(), options.get_port());
            if let Ok(server) = TcpStream::connect(address).await {
                server.set_nodelay(true).expect("a socket's option");
                pump_both(client, server, way).await;
            }
        }
    }
}

async fn pump_both<S: AsyncRead + AsyncWrite>(
    client: &mut TcpStream,
    server: S,
    way: watch::Receiver<Way>,
) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    // When one side has ended, the other is broken off as well.
    tokio::select! {
        _ = pump(from_client, to_server, way.clone(), true) => {}
        _ = pump(from_server, to_client, way, false) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    asking: bool,
) -> std::io::Result<()> {
    let mut part = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut part).await?;
        if length == 0 {
            return Ok(());
        }
        let blocks = |way: &Way| *way == Way::Stuck || (*way == Way::Deaf && !asking);
        // The sender outlives every connection, or all of them end.
        let now = match way.wait_for(|way| !blocks(way)).await {
            Ok(now) => *now,
            Err(_) => return Ok(()),
        };
        if let (Way::Slow(delay), true) = (now, asking) {
            super::pass_time(delay).await;
        }
        to.write_all(&part[..length]).await?;
    }
}
