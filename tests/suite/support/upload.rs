//! A body that is sent bit by bit, on a connection of its own, and can be cut.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::server::Server;

/// A request under way: its head is sent, its body comes in chunks.
pub struct Upload {
    connection: TcpStream,
}

impl Upload {
    /// `POST /api/v1/readings` with these headers, each with its line end.
    pub async fn begin(server: &Server, headers: &str) -> Upload {
        Upload::begin_as(server, &server.token("readings:write"), headers).await
    }

    /// The same with a token of the test's choice.
    pub async fn begin_as(server: &Server, token: &str, headers: &str) -> Upload {
        let mut connection = TcpStream::connect(server.address()).await.expect("a connection");
        let head = format!(
            "POST /api/v1/readings HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ntransfer-encoding: chunked\r\n{headers}\r\n",
        );
        connection.write_all(head.as_bytes()).await.expect("a head");
        Upload { connection }
    }

    /// A stream of lines.
    pub async fn of_lines(server: &Server) -> Upload {
        Upload::begin(server, "content-type: application/x-ndjson\r\n").await
    }

    /// Sends a part; false when the server wants no more.
    pub async fn try_send(&mut self, part: impl AsRef<[u8]>) -> bool {
        let part = part.as_ref();
        let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        self.connection.write_all(&chunk).await.is_ok()
    }

    /// Sends a part that the server has to take.
    pub async fn send(&mut self, part: impl AsRef<[u8]>) {
        assert!(self.try_send(part).await, "the server has closed the connection");
    }

    /// Breaks the connection off; what is on its way is lost.
    pub fn cut(self) {
        self.connection.set_zero_linger().expect("an open connection");
    }

    /// Ends the body; the status and the body of the answer.
    pub async fn end(mut self) -> (u16, Value) {
        // It may have answered by now.
        drop(self.connection.write_all(b"0\r\n\r\n").await);
        self.answer().await
    }

    /// Waits for the answer without ending the body.
    pub async fn answer(mut self) -> (u16, Value) {
        let mut answer = Vec::new();
        // To the end, or to where the connection breaks, with the answer before it.
        drop(self.connection.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let retry = head.to_lowercase().contains("\r\nretry-after: ");
        assert_eq!([429, 503].contains(&status), retry, "{head}");
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {body}")))
    }
}
