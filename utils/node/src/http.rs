//! HTTP/1.1 to one node: a few connections kept alive, each used by one call at a time.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode, Version,
    body::{Body, Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::{NodeError, config::Endpoint, credentials::Credentials};

/// Connections kept for the next call. More may be open at a time; a waiting call has one to itself.
const IDLE_CONNECTIONS: usize = 4;

/// Largest answer read. The attack: whoever answers in the node's place fills our memory. A template of 4 M weight is at
/// most 8 MB of hex and its names.
const ANSWER_LIMIT: usize = 64 << 20;

/// To find the node's address and reach it. Much less than a block's deadline, after which it is tried again at once where
/// the node has come back meanwhile.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long the kernel sends again what the node's host does not confirm, before the connection counts as lost.
#[cfg(target_os = "linux")]
const UNANSWERED: Duration = Duration::from_secs(15);

pub(crate) struct Http {
    endpoint: Endpoint,
    idle: Mutex<Vec<Connection>>,
}

/// An answer in whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
    /// What it was asked with.
    pub(crate) authorization: HeaderValue,
}

impl Http {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: Mutex::default() }
    }

    /// Posts `body` and reads the whole answer.
    ///
    /// A kept connection may turn out to be dead, since a node closes idle ones and may have been restarted: then the
    /// request goes out once more on a fresh one, if the node cannot have seen it or `repeatable` says that a second
    /// time does no harm.
    pub(crate) async fn post(
        &self,
        body: &Bytes,
        credentials: &Credentials,
        repeatable: bool,
    ) -> Result<Answer, NodeError> {
        if let Some(connection) = self.kept() {
            match self.exchange(connection, body, credentials.current()?).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Fatal(e)) => return Err(e),
                Err(Failure::Lost { may_have_arrived, why }) => {
                    // The others are of the same age.
                    self.idle().clear();
                    if may_have_arrived && !repeatable {
                        return Err(self.lost(&why));
                    }
                    tracing::debug!(
                        node = self.endpoint.authority,
                        why,
                        "kept connection was dead"
                    );
                }
            }
        }
        let connection = self.connect().await?;
        // The node may have been started anew, and it takes its time to refuse the cookie of before.
        match self.exchange(connection, body, credentials.read()?).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Fatal(e)) => Err(e),
            Err(Failure::Lost { why, .. }) => Err(self.lost(&why)),
        }
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        body: &Bytes,
        authorization: HeaderValue,
    ) -> Result<Answer, Failure> {
        let request = self.request(body, &authorization);
        if let Err(e) = connection.sender.ready().await {
            return Err(Failure::Lost { may_have_arrived: false, why: e.to_string() });
        }
        let response = connection.sender.try_send_request(request).await.map_err(|mut e| {
            let may_have_arrived = e.take_message().is_none();
            Failure::Lost { may_have_arrived, why: chain(e.error()) }
        })?;
        let status = response.status();
        let reusable = response.version() == Version::HTTP_11;
        let body = read(response.into_body()).await?;
        if reusable {
            self.keep(connection);
        }
        Ok(Answer { status, body, authorization })
    }

    fn request(&self, body: &Bytes, authorization: &HeaderValue) -> Request<Full<Bytes>> {
        Request::builder()
            .method(Method::POST)
            .uri(&self.endpoint.path)
            .header(header::HOST, &self.endpoint.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, authorization)
            .body(Full::new(body.clone()))
            .expect("host and path come from a parsed URL")
    }

    async fn connect(&self) -> Result<Connection, NodeError> {
        let Endpoint { host, port, authority, .. } = &self.endpoint;
        let unreachable = |why: String| NodeError::Unreachable(format!("{authority}: {why}"));
        let stream = adit_transport::reach(host, *port, CONNECT_TIME)
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        set_up(&stream).map_err(|e| unreachable(e.to_string()))?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(chain(&e)))?;
        // Its end, good or bad, is seen by whoever uses the connection.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Connection { sender, driver })
    }

    fn lost(&self, why: &str) -> NodeError {
        NodeError::Unreachable(format!("{}: connection lost: {why}", self.endpoint.authority))
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS && !connection.sender.is_closed() {
            idle.push(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closed when dropped, also in the middle of an answer nobody waits for any more.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

enum Failure {
    /// The connection is gone; a fresh one may do.
    Lost { may_have_arrived: bool, why: String },
    /// A fresh connection would bring the same.
    Fatal(NodeError),
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Else a call on a kept connection whose way is broken would wait for its own deadline: for a block, a minute.
    #[cfg(target_os = "linux")]
    SockRef::from(stream).set_tcp_user_timeout(Some(UNANSWERED))?;
    Ok(())
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let too_large = || {
        let limit = ANSWER_LIMIT >> 20;
        Failure::Fatal(NodeError::Malformed(format!("an answer of more than {limit} MiB")))
    };
    let announced = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    if announced > ANSWER_LIMIT {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Failure::Lost { may_have_arrived: true, why: chain(&e) })?;
        if let Some(data) = frame.data_ref() {
            if bytes.len() + data.len() > ANSWER_LIMIT {
                return Err(too_large());
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

/// An error with its causes, since hyper's own text is terse.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A host that is gone is noticed long before a block's deadline is over.
    #[tokio::test]
    async fn the_kernel_gives_up_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        set_up(&stream).unwrap();
        assert_eq!(SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNANSWERED));
        assert!(stream.nodelay().unwrap());
    }
}
