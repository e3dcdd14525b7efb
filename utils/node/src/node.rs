//! One call: envelope, deadline, credentials, errors.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{StatusCode, body::Bytes};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    ConfigError, NodeConfig, NodeError,
    credentials::Credentials,
    error::clean,
    http::{Answer, Http},
};

/// Ordinary calls under way at a time; a node serves few at once and refuses more with 503. Further ones wait within
/// their deadline. Calls that wait at the node and `submitblock` are not counted, so that nothing delays a block.
const CALLS_IN_FLIGHT: usize = 4;

/// A client of one bitcoind. Clones share connections and credentials.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    credentials: Credentials,
    url: String,
    timeout: Duration,
    ordinary: Semaphore,
    next_id: AtomicU64,
    observer: Option<Box<Observer>>,
    /// The node was seen not to know `waitfornewblock`'s second parameter.
    waits_without_tip: AtomicBool,
}

type Observer = dyn Fn(&CallReport<'_>) + Send + Sync;

/// One call that is over, for metrics.
#[derive(Debug, Clone, Copy)]
pub struct CallReport<'a> {
    /// The RPC's name.
    pub method: &'a str,
    /// From asking to the decoded result, waiting for a free place included.
    pub duration: Duration,
    /// What went wrong, if anything.
    pub error: Option<&'a NodeError>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("url", &self.inner.url).finish_non_exhaustive()
    }
}

impl Node {
    /// A client; the node is first asked by the first call.
    pub fn new(config: NodeConfig) -> Result<Self, ConfigError> {
        Self::build(config, None)
    }

    /// The same, with `observer` told of each call when it is over. It must not block.
    pub fn with_observer(
        config: NodeConfig,
        observer: impl Fn(&CallReport<'_>) + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        Self::build(config, Some(Box::new(observer)))
    }

    fn build(config: NodeConfig, observer: Option<Box<Observer>>) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            inner: Arc::new(Inner {
                http: Http::new(config.endpoint()?),
                credentials: Credentials::new(config.auth),
                url: config.url,
                timeout: config.timeout,
                ordinary: Semaphore::new(CALLS_IN_FLIGHT),
                next_id: AtomicU64::new(0),
                observer,
                waits_without_tip: AtomicBool::new(false),
            }),
        })
    }

    /// The URL of the config.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Any RPC, `params` being an array or an object. It reaches the node at most once.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, NodeError> {
        self.run(method, params, Manner { repeatable: false, ..self.ordinary() }).await
    }

    /// Any RPC that does no harm when it runs twice: it is sent again if a kept connection turns out to be dead.
    pub async fn query<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
    ) -> Result<T, NodeError> {
        self.run(method, params, self.ordinary()).await
    }

    /// The same RPC many times in one exchange, which saves a round trip each; the node runs them one after the other.
    /// One result or error per item of `params`, in order.
    pub async fn query_many<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<Result<T, NodeError>>, NodeError> {
        let inner = &*self.inner;
        let body = Batch::new(method, params)?;
        if body.count == 0 {
            return Ok(Vec::new());
        }
        let asked = async {
            let _place = inner.ordinary.acquire().await.ok();
            read_batch(method, body.count, &inner.exchange(&Bytes::from(body.bytes), true).await?)
        };
        self.observed(method, self.inner.timeout, asked).await
    }

    /// A query with a deadline of its own that waits for no other call.
    pub(crate) async fn query_within<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        deadline: Duration,
    ) -> Result<T, NodeError> {
        let manner = Manner { repeatable: true, counted: false, deadline };
        self.run(method, params, manner).await
    }

    /// The deadline of an ordinary call.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.timeout
    }

    pub(crate) fn waits_without_tip(&self) -> &AtomicBool {
        &self.inner.waits_without_tip
    }

    fn ordinary(&self) -> Manner {
        Manner { repeatable: true, counted: true, deadline: self.inner.timeout }
    }

    async fn run<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        manner: Manner,
    ) -> Result<T, NodeError> {
        let inner = &*self.inner;
        let asked = async {
            let _place = match manner.counted {
                true => inner.ordinary.acquire().await.ok(),
                false => None,
            };
            inner.ask(method, params, manner.repeatable).await
        };
        self.observed(method, manner.deadline, asked).await
    }

    /// Runs a call within `deadline` and tells the observer.
    async fn observed<T>(
        &self,
        method: &str,
        deadline: Duration,
        call: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let started = Instant::now();
        let result = timeout(deadline, call).await.unwrap_or_else(|_| {
            Err(NodeError::Timeout { method: method.to_owned(), after: deadline })
        });
        if let Some(observer) = &self.inner.observer {
            let error = result.as_ref().err();
            observer(&CallReport { method, duration: started.elapsed(), error });
        }
        result
    }
}

/// How a call is run.
struct Manner {
    /// A second time does no harm.
    repeatable: bool,
    /// Takes one of [`CALLS_IN_FLIGHT`].
    counted: bool,
    deadline: Duration,
}

impl Inner {
    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: impl Serialize,
        repeatable: bool,
    ) -> Result<T, NodeError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // Version 1.0 is what every node speaks, the latest included.
        let body = serde_json::to_vec(&Call { jsonrpc: "1.0", id, method, params })
            .map_err(|e| NodeError::Malformed(format!("parameters of {method}: {e}")))?;
        let answer = self.exchange(&Bytes::from(body), repeatable).await?;
        read_answer(method, id, &answer)
    }

    /// Posts `body`, a second time if there are other credentials by now than those the node refused.
    async fn exchange(&self, body: &Bytes, repeatable: bool) -> Result<Answer, NodeError> {
        let mut answer = self.http.post(body, &self.credentials, repeatable).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && self.credentials.read()? != answer.authorization
        {
            answer = self.http.post(body, &self.credentials, repeatable).await?;
        }
        match answer.status {
            StatusCode::UNAUTHORIZED => Err(self.credentials.refusal()),
            _ => Ok(answer),
        }
    }
}

#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'a str,
    id: u64,
    method: &'a str,
    params: P,
}

/// Calls in one body; ids count from 0.
struct Batch {
    bytes: Vec<u8>,
    count: usize,
}

impl Batch {
    fn new(
        method: &str,
        params: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Self, NodeError> {
        let mut batch = Self { bytes: Vec::new(), count: 0 };
        for params in params {
            batch.bytes.push(if batch.count == 0 { b'[' } else { b',' });
            let call = Call { jsonrpc: "1.0", id: batch.count as u64, method, params };
            serde_json::to_writer(&mut batch.bytes, &call)
                .map_err(|e| NodeError::Malformed(format!("parameters of {method}: {e}")))?;
            batch.count += 1;
        }
        batch.bytes.push(b']');
        Ok(batch)
    }
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Reply<T> {
    #[serde(default)]
    result: Option<T>,
    #[serde(default)]
    error: Option<ReplyError>,
    #[serde(default)]
    id: Option<u64>,
}

#[derive(Deserialize)]
struct ReplyError {
    code: i64,
    #[serde(default)]
    message: String,
}

/// Statuses that say more than any body.
fn check_status(answer: &Answer) -> Result<(), NodeError> {
    match answer.status {
        StatusCode::FORBIDDEN => Err(NodeError::Credentials(
            "the node does not allow this address (rpcallowip) or this call".to_owned(),
        )),
        StatusCode::SERVICE_UNAVAILABLE => {
            Err(NodeError::Busy(clean(&String::from_utf8_lossy(&answer.body))))
        }
        _ => Ok(()),
    }
}

fn read_answer<T: DeserializeOwned>(
    method: &str,
    id: u64,
    answer: &Answer,
) -> Result<T, NodeError> {
    check_status(answer)?;
    let malformed = |what: String| NodeError::Malformed(format!("{method}: {what}"));
    // RPC errors come with status 500, 404 or 400 and a JSON body, so the body decides.
    let reply: Reply<T> = serde_json::from_slice(&answer.body).map_err(|e| {
        if answer.status.is_success() {
            // It may repeat a whole field.
            malformed(clean(&e.to_string()))
        } else {
            let text = clean(&String::from_utf8_lossy(&answer.body));
            malformed(format!("HTTP status {}: {text}", answer.status.as_u16()))
        }
    })?;
    reply.read(method, id)
}

fn read_batch<T: DeserializeOwned>(
    method: &str,
    count: usize,
    answer: &Answer,
) -> Result<Vec<Result<T, NodeError>>, NodeError> {
    check_status(answer)?;
    let malformed = |what: String| NodeError::Malformed(format!("{method}: {what}"));
    let replies: Vec<Reply<T>> =
        serde_json::from_slice(&answer.body).map_err(|e| malformed(clean(&e.to_string())))?;
    if replies.len() != count {
        return Err(malformed(format!("{} answers to {count} questions", replies.len())));
    }
    Ok(replies.into_iter().zip(0..).map(|(reply, id)| reply.read(method, id)).collect())
}

impl<T: DeserializeOwned> Reply<T> {
    fn read(self, method: &str, id: u64) -> Result<T, NodeError> {
        let malformed = |what: &str| NodeError::Malformed(format!("{method}: {what}"));
        if let Some(error) = self.error {
            return Err(NodeError::from_rpc(error.code, &error.message));
        }
        if self.id != Some(id) {
            return Err(malformed("the answer to another question"));
        }
        match self.result {
            Some(result) => Ok(result),
            // `null` is a result too, for a type that can be that.
            None => T::deserialize(serde_json::Value::Null).map_err(|_| malformed("no result")),
        }
    }
}
