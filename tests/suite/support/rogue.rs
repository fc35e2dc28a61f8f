//! Receivers that misbehave below HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a rogue does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// Takes it and says nothing.
    Hang,
    /// Answers a byte a second.
    Drip,
    /// Says 200 at once and then a byte of the body a second.
    DripBody,
    /// Answers 200 and 200 MB.
    Endless,
    /// Breaks the connection.
    Reset,
    /// Answers this to the letter, and closes.
    Says(&'static str),
}

/// A running rogue.
pub struct Rogue {
    /// Where to deliver to.
    pub url: String,
    called: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Rogue {
    pub async fn start(manner: Manner) -> Rogue {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let called = Arc::new(AtomicUsize::new(0));
        let counter = called.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                // The other side goes away when it has had enough.
                tokio::spawn(misbehave(stream, manner));
            }
        });
        Rogue { url, called, task }
    }

    /// How often it was connected to.
    pub fn called(&self) -> usize {
        self.called.load(Ordering::Relaxed)
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn misbehave(mut stream: TcpStream, manner: Manner) -> std::io::Result<()> {
    let mut request = [0; 4096];
    if stream.read(&mut request).await? == 0 {
        return Ok(());
    }
    match manner {
        Manner::Hang => std::future::pending().await,
        Manner::Reset => stream.set_zero_linger(),
        Manner::Says(answer) => {
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
        Manner::Drip => drip(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n").await,
        Manner::DripBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            drip(&mut stream, &[b'x'; 1000]).await
        }
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 200000000\r\n\r\n").await?;
            let piece = [b'x'; 16 * 1024];
            for _ in 0..200_000_000 / piece.len() {
                stream.write_all(&piece).await?;
            }
            Ok(())
        }
    }
}

async fn drip(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        super::pass_time(Duration::from_secs(1)).await;
    }
    Ok(())
}
