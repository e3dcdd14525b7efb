//! A man in the middle between two roles: it decodes what both say, keeps it in order, and can drop, replace, delay or
//! hold messages and cut connections.
//!
//! For Noise connections it has an authority key of its own, which the client pins instead of the server's
//! ([`Sniffer::authority_key`]), and it checks the server's key itself. For Stratum V1 it reads lines.

mod wire;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use adit_sv2::frame::Header;
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_sv2::messages::{AnyMessage, DecodeError};
use adit_sv2::noise::{ResponderIdentity, Validity};
use adit_sv2::tlv::Tlvs;
use anyhow::{Result, bail};

pub(crate) use wire::{Reader, Writer, accept, connect, lines, now, random};

/// Who speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The end that dialled speaks.
    ToServer,
    /// The end that was dialled speaks.
    ToClient,
}

use Direction::{ToClient, ToServer};

/// One message as it came, whatever was then done to it.
#[derive(Clone, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// Which connection, counted from 0.
    pub connection: usize,
    /// Who said it.
    pub direction: Direction,
    /// A plaintext frame with its header, or a line without its end.
    pub bytes: Vec<u8>,
    /// Spec name of the message, `extension XXXX/XX` for one that is unknown; of a line its method, or `reply`.
    pub name: String,
}

impl Record {
    pub(crate) fn new(
        connection: usize,
        direction: Direction,
        bytes: Vec<u8>,
        frames: bool,
    ) -> Self {
        let name = if frames { name_of_frame(&bytes) } else { name_of_line(&bytes) };
        Self { at: Instant::now(), connection, direction, bytes, name }
    }

    /// Header and payload of a frame.
    pub fn frame(&self) -> (Header, &[u8]) {
        split(&self.bytes)
    }

    /// A frame's message and the TLV fields behind it.
    ///
    /// # Errors
    /// It is none that is known, or not what its header says.
    pub fn message(&self) -> Result<(AnyMessage<'_>, Tlvs<'_>), DecodeError> {
        let (header, payload) = self.frame();
        AnyMessage::decode(&header, payload)
    }

    /// A line as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = if self.direction == ToServer { "->" } else { "<-" };
        write!(f, "#{} {arrow} ", self.connection)?;
        match self.message() {
            Ok((message, _)) => message.fmt(f),
            Err(_) => write!(f, "{}: {}", self.name, String::from_utf8_lossy(&self.bytes)),
        }
    }
}

/// What happens to a message that is intercepted.
pub enum Action {
    /// It is not passed on.
    Drop,
    /// Other messages go instead of it: frames with their headers, or lines without their ends.
    Replace(Replacement),
    /// It and what follows it go on so much later.
    Delay(Duration),
    /// It and what follows it wait until the interception ends.
    Hold,
}

/// Makes what goes instead of a message.
pub type Replacement = Box<dyn FnMut(&Record) -> Vec<Vec<u8>> + Send>;

/// An interception in force; it ends when dropped.
#[must_use]
pub struct Interception {
    shared: Arc<Shared>,
    id: usize,
}

/// The sniffer. Dropped, it cuts all connections and takes no new ones.
#[derive(Debug)]
pub struct Sniffer {
    addr: SocketAddr,
    authority_key: Option<AuthorityPublicKey>,
    shared: Arc<Shared>,
}

impl Sniffer {
    /// Between Stratum V2 ends: listens on a free port, and dials `server` for each client, who must prove `server_key`.
    ///
    /// # Errors
    /// No port is free.
    pub fn noise(server: SocketAddr, server_key: AuthorityPublicKey) -> Result<Self> {
        let authority = AuthoritySecretKey::from_entropy(random())?;
        let key = authority.public();
        let validity = Validity::default();
        let identity =
            ResponderIdentity::new(authority, validity, now(), [random(), random(), random()]);
        Self::start(server, Some(key), Some((identity, server_key)))
    }

    /// Between Stratum V1 ends.
    ///
    /// # Errors
    /// No port is free.
    pub fn lines(server: SocketAddr) -> Result<Self> {
        Self::start(server, None, None)
    }

    fn start(
        server: SocketAddr,
        authority_key: Option<AuthorityPublicKey>,
        noise: Option<(ResponderIdentity, AuthorityPublicKey)>,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, crate::harness::free_port()?))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { server, noise, ..Shared::default() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.lock().stopped {
                    return;
                }
                let (Ok(client), shared) = (client, accepting.clone()) else { continue };
                // A client whose server is away is hung up on.
                thread::spawn(move || drop(shared.join(client)));
            }
        });
        Ok(Self { addr, authority_key, shared })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What clients pin; none for Stratum V1.
    pub fn authority_key(&self) -> Option<AuthorityPublicKey> {
        self.authority_key
    }

    /// Intercepts messages of this name from now on. The first interception that fits has the message.
    pub fn intercept(&self, direction: Direction, name: &str, action: Action) -> Interception {
        let mut state = self.shared.lock();
        state.next_rule += 1;
        let id = state.next_rule;
        state.rules.push(Rule { id, direction, name: name.to_owned(), hits: 0, action });
        Interception { shared: self.shared.clone(), id }
    }

    /// Cuts all connections that there are now.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// All that was said so far.
    pub fn records(&self) -> Vec<Record> {
        self.shared.lock().records.clone()
    }

    /// Reads what was said, from the beginning.
    pub fn from_start(&self) -> Reading {
        Reading { shared: self.shared.clone(), next: 0 }
    }

    /// Reads what is said from now on.
    pub fn from_now(&self) -> Reading {
        Reading { shared: self.shared.clone(), next: self.shared.lock().records.len() }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.cut();
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.addr));
    }
}

/// A place in what was said.
#[derive(Clone, Debug)]
pub struct Reading {
    shared: Arc<Shared>,
    next: usize,
}

impl Reading {
    /// The next message of this name; goes to behind it.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_for(
        &mut self,
        direction: Direction,
        name: &str,
        within: Duration,
    ) -> Result<Record> {
        let what = format!("{name} {direction:?}");
        self.wait_until(within, &what, |r| r.direction == direction && r.name == name)
    }

    /// The next message that `fits`; goes to behind it.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait_until(
        &mut self,
        within: Duration,
        what: &str,
        mut fits: impl FnMut(&Record) -> bool,
    ) -> Result<Record> {
        let deadline = Instant::now() + within;
        let begin = self.next;
        let mut state = self.shared.lock();
        loop {
            while let Some(record) = state.records.get(self.next) {
                self.next += 1;
                if fits(record) {
                    return Ok(record.clone());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen: Vec<_> = state.records[begin..].iter().map(Record::to_string).collect();
                bail!("no {what} within {within:?}, but {seen:#?}");
            }
            state = self.shared.wait(state, left);
        }
    }

    /// Panics if a message of this name was said between here and now.
    #[track_caller]
    pub fn assert_absent(&self, direction: Direction, name: &str) {
        let state = self.shared.lock();
        let fits = |r: &&Record| r.direction == direction && r.name == name;
        if let Some(record) = state.records[self.next..].iter().find(fits) {
            panic!("said what should not be said: {record}");
        }
    }
}

impl Interception {
    /// Messages intercepted so far.
    pub fn hits(&self) -> usize {
        self.shared.lock().rules.iter().find(|rule| rule.id == self.id).map_or(0, |rule| rule.hits)
    }

    /// Waits until a message was intercepted.
    ///
    /// # Errors
    /// None came in time.
    pub fn wait_hit(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        while !state.rules.iter().any(|rule| rule.id == self.id && rule.hits > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("nothing to intercept within {within:?}");
            }
            state = self.shared.wait(state, left);
        }
        Ok(())
    }

    /// Ends it: what was held goes on.
    pub fn end(self) {}
}

impl Drop for Interception {
    fn drop(&mut self) {
        self.shared.lock().rules.retain(|rule| rule.id != self.id);
        self.shared.changed.notify_all();
    }
}

struct Shared {
    server: SocketAddr,
    noise: Option<(ResponderIdentity, AuthorityPublicKey)>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    rules: Vec<Rule>,
    next_rule: usize,
    /// Both sockets of each connection that stands.
    connections: Vec<Option<[TcpStream; 2]>>,
    stopped: bool,
}

struct Rule {
    id: usize,
    direction: Direction,
    name: String,
    hits: usize,
    action: Action,
}

impl Default for Shared {
    fn default() -> Self {
        let server = (Ipv4Addr::LOCALHOST, 0).into();
        Self { server, noise: None, state: Mutex::default(), changed: Condvar::new() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared(to {})", self.server)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, State>, time: Duration) -> MutexGuard<'g, State> {
        self.changed.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn cut(&self) {
        let mut state = self.lock();
        for streams in state.connections.iter_mut().filter_map(Option::take) {
            for stream in streams {
                // Gone already is as good.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.changed.notify_all();
    }

    /// Carries what two ends say until one of them closes.
    fn join(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect_timeout(&self.server, Duration::from_secs(60))?;
        let id = {
            let mut state = self.lock();
            if state.stopped {
                return Ok(());
            }
            state.connections.push(Some([client.try_clone()?, server.try_clone()?]));
            state.connections.len() - 1
        };
        let joined = self.shake_hands(client, server);
        if let Ok((client, server)) = joined {
            let other = self.clone();
            let (to_client, to_server) = (client.1, server.1);
            let back = thread::spawn(move || other.carry(id, ToClient, server.0, to_client));
            self.carry(id, ToServer, client.0, to_server);
            let _ = back.join();
        }
        self.end(id);
        Ok(())
    }

    fn shake_hands(
        &self,
        client: TcpStream,
        server: TcpStream,
    ) -> io::Result<((Reader, Writer), (Reader, Writer))> {
        match &self.noise {
            None => Ok((lines(client)?, lines(server)?)),
            Some((identity, key)) => {
                // The server first: what is wrong with it, the client should meet as a hang-up and not as silence.
                let server = connect(server, Some(*key))?;
                Ok((accept(client, identity)?, server))
            }
        }
    }

    fn carry(&self, connection: usize, direction: Direction, mut from: Reader, mut to: Writer) {
        while let Ok(Some(bytes)) = from.next() {
            let record = Record::new(connection, direction, bytes, self.noise.is_some());
            let Some(messages) = self.pass(record) else { break };
            if messages.iter().any(|message| to.send(message).is_err()) {
                break;
            }
        }
        // An end for one is an end for both.
        self.end(connection);
    }

    /// Notes a message and tells what goes on in its place; none if the connection was cut meanwhile.
    fn pass(&self, record: Record) -> Option<Vec<Vec<u8>>> {
        let mut state = self.lock();
        let bytes = record.bytes.clone();
        state.records.push(record.clone());
        let fits = |r: &&mut Rule| r.direction == record.direction && r.name == record.name;
        let mut until = Instant::now();
        let mut held = None;
        let mut messages = vec![bytes];
        if let Some(rule) = state.rules.iter_mut().find(fits) {
            rule.hits += 1;
            match &mut rule.action {
                Action::Drop => messages.clear(),
                Action::Replace(replace) => messages = replace(&record),
                Action::Delay(time) => until += *time,
                Action::Hold => held = Some(rule.id),
            }
        }
        self.changed.notify_all();
        loop {
            state.connections[record.connection].as_ref()?;
            let left = until.saturating_duration_since(Instant::now());
            if held.is_some_and(|id| state.rules.iter().any(|rule| rule.id == id)) {
                state = self.wait(state, Duration::from_secs(60));
            } else if !left.is_zero() {
                state = self.wait(state, left);
            } else {
                return Some(messages);
            }
        }
    }

    fn end(&self, connection: usize) {
        for stream in self.lock().connections[connection].take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

/// Header and payload of a whole frame.
pub(crate) fn split(frame: &[u8]) -> (Header, &[u8]) {
    match frame.split_first_chunk() {
        Some((header, payload)) => (Header::parse(header), payload),
        None => (Header::parse(&[0; Header::LEN]), &[]),
    }
}

fn name_of_frame(frame: &[u8]) -> String {
    let (header, payload) = split(frame);
    match AnyMessage::decode(&header, payload) {
        Ok((message, _)) => message.name().to_owned(),
        Err(_) => format!("extension {:04x}/{:02x}", header.extension_type, header.msg_type),
    }
}

fn name_of_line(line: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    json["method"].as_str().unwrap_or("reply").to_owned()
}

#[cfg(test)]
mod tests;
