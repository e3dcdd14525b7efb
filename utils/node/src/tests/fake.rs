//! A node that does what a test wants: one closure answers all calls.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinHandle,
};

use crate::{Auth, Node, NodeConfig};

pub(crate) const HASH: &str = "000000000000000000000000000000000000000000000000000000000000abcd";

/// A call as it arrived.
pub(crate) struct Call {
    /// Counted from 0 over the fake's life.
    pub(crate) connection: usize,
    /// As in the header.
    pub(crate) authorization: String,
    pub(crate) method: String,
    pub(crate) params: Value,
    id: Value,
}

/// What the fake does about a call.
pub(crate) enum Reaction {
    /// Status and body; the connection stays.
    Http(u16, String),
    /// These bytes, then the connection is closed.
    Break(Vec<u8>),
    /// A body without end.
    Flood,
    /// Nothing, with the connection open.
    Hang,
}

impl Call {
    pub(crate) fn result(&self, result: Value) -> Reaction {
        let body = json!({ "result": result, "error": null, "id": self.id });
        Reaction::Http(200, body.to_string())
    }

    pub(crate) fn error(&self, code: i64, message: &str) -> Reaction {
        let error = json!({ "code": code, "message": message });
        Reaction::Http(500, json!({ "result": null, "error": error, "id": self.id }).to_string())
    }
}

/// Dropped, it takes its port and connections with it.
pub(crate) struct Fake {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start(react: impl FnMut(&Call) -> Reaction + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self::on(listener, react)
    }

    pub(crate) fn on(
        listener: TcpListener,
        react: impl FnMut(&Call) -> Reaction + Send + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let react = Arc::new(Mutex::new(react));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let react = react.clone();
                connections.spawn(async move {
                    while let Some(call) = read_call(&mut stream, connection).await {
                        let reaction = (react.lock().await)(&call);
                        if !carry_out(&mut stream, reaction).await {
                            break;
                        }
                    }
                });
            }
        });
        Self { addr, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn config(&self) -> NodeConfig {
        let auth = Auth::UserPass { user: "user".into(), password: "secret".into() };
        NodeConfig { url: self.url(), auth, timeout: Duration::from_secs(5) }
    }

    pub(crate) fn node(&self) -> Node {
        Node::new(self.config()).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_call(stream: &mut TcpStream, connection: usize) -> Option<Call> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    assert!(text.starts_with("POST / HTTP/1.1\r\n"), "{text}");
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = header("content-length").unwrap().parse().unwrap();
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body: Value = serde_json::from_slice(&bytes[head..]).unwrap();
    // Of a batch the first call's method stands for all, and the parameters are the whole of it.
    let first = body.get(0).unwrap_or(&body);
    Some(Call {
        connection,
        authorization: header("authorization").unwrap(),
        method: first["method"].as_str().unwrap().to_owned(),
        params: if body.is_array() { body.clone() } else { body["params"].clone() },
        id: body["id"].clone(),
    })
}

/// True if the connection goes on.
async fn carry_out(stream: &mut TcpStream, reaction: Reaction) -> bool {
    match reaction {
        Reaction::Http(status, body) => {
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.is_ok()
        }
        Reaction::Break(bytes) => {
            let _ = stream.write_all(&bytes).await;
            false
        }
        Reaction::Flood => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {}
            false
        }
        Reaction::Hang => {
            // Until the client gives up.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            false
        }
    }
}
