//! Where the addresses of names come from.
//!
//! Guarantees nothing about an answer: it may be empty, wrong, inwards, or another one the
//! next time. The guard judges it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;

/// Where the addresses of a name come from: an argument, as time is.
pub trait Resolver: Send + Sync + fmt::Debug {
    /// The addresses of a name, with any port.
    fn addresses(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The machine's resolver.
#[derive(Clone, Copy, Debug)]
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn addresses(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
    }
}
