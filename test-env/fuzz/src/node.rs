//! A node that answers whatever it is told to, on a real socket.

use std::io;
use std::rc::Rc;

use adit_node::{Auth, Node, NodeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

/// A call as it arrives.
#[derive(Debug)]
pub struct Asked {
    /// The header of that name.
    pub authorization: String,
    /// The call or calls as JSON.
    pub body: Vec<u8>,
}

/// What is done about it.
#[derive(Debug)]
pub enum Answer {
    /// These bytes are written, and the connection stays.
    Stay(Vec<u8>),
    /// These bytes are written before the connection is closed.
    Close(Vec<u8>),
}

impl Answer {
    /// A body with the header that it needs.
    pub fn http(status: u16, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
        Self::Stay([head.as_bytes(), body].concat())
    }
}

struct Server {
    runtime: Runtime,
    listener: TcpListener,
    url: String,
}

thread_local! {
    static SERVER: Server = {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bound = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)));
        let listener = bound.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        Server { runtime, listener, url }
    };
}

/// Runs `calls` with a client of a node that answers so.
pub fn asking<T>(
    auth: Auth,
    answer: impl Fn(&Asked) -> Answer + 'static,
    calls: impl AsyncFnOnce(Node) -> T,
) -> T {
    SERVER.with(|server| {
        let node = Node::new(NodeConfig::new(&server.url, auth)).expect("a good address");
        let answer: Rc<dyn Fn(&Asked) -> Answer> = Rc::new(answer);
        LocalSet::new().block_on(&server.runtime, async {
            tokio::select! {
                biased;
                done = calls(node) => done,
                () = serve(&server.listener, &answer) => panic!("the listener ended"),
            }
        })
    })
}

async fn serve(listener: &TcpListener, answer: &Rc<dyn Fn(&Asked) -> Answer>) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        tokio::task::spawn_local(async move { drop(connection(stream, &*answer).await) });
    }
}

async fn connection(mut stream: TcpStream, answer: &dyn Fn(&Asked) -> Answer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let Some((asked, len)) = call(&bytes) else {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        bytes.drain(..len);
        match answer(&asked) {
            Answer::Stay(bytes) => stream.write_all(&bytes).await?,
            Answer::Close(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
        }
    }
}

/// The first whole call, as our client writes it, and how long it is.
fn call(bytes: &[u8]) -> Option<(Asked, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head in text");
    let header = |wanted: &str| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).expect("that header").1
    };
    let len = end + header("content-length").parse::<usize>().expect("a length");
    let body = bytes.get(end..len)?.to_vec();
    Some((Asked { authorization: header("authorization").to_owned(), body }, len))
}
