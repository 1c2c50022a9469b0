//! A small MQTT 5 broker inside the process, for the demo and the tests.
//!
//! Owns: its thread, its listening socket and its clients. Must not: ship to a device, listen beyond loopback, or be
//! taken for a broker to rely on: it has QoS 0 and 1, no sessions, no files, no TLS and no access control.
//!
//! Invariants: a message is in the channel of [`Broker::received`] before its PUBACK is sent, and while that channel is
//! full no PUBACK is sent. Everything that a client can make it keep has a bound.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::pending,
    io,
    net::SocketAddr,
    rc::Rc,
    thread::JoinHandle,
    time::Duration,
};

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use rumqttc::{Packet, Publish, QoS, matches};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::{JoinSet, LocalSet},
    time::sleep,
};

mod connection;

/// Largest packet in bytes, both ways.
const PACKET_BYTES_MAX: u32 = 1 << 20;
/// Most connections at a time; further ones are closed at once.
const CLIENTS_MAX: usize = 64;
/// Most filters of one client.
const FILTERS_MAX: usize = 32;
/// Most retained messages, the last wills' included; further topics are not retained.
const RETAINED_MAX: usize = 1024;
/// Packets that may wait for a slow subscriber; further ones are dropped, as QoS 0 allows.
const QUEUE_MAX: usize = 256;
/// Messages that may wait for the reader of [`Broker::received`].
const RECEIVED_MAX: usize = 4096;
/// How long the broker's thread may take to obey.
const OBEY: Duration = Duration::from_secs(5);

/// One message that a client published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic name.
    pub topic: String,
    /// The payload as it came, perhaps compressed.
    pub payload: Vec<u8>,
    /// Whether it was published to be retained.
    pub retained: bool,
}

/// A running broker; it stops when dropped.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    control: mpsc::UnboundedSender<Order>,
    received: Receiver<Received>,
    thread: Option<JoinHandle<()>>,
}

/// What the owner asks, and where the answer goes.
#[derive(Debug)]
enum Order {
    GoAway(Sender<io::Result<()>>),
    ComeBack(Sender<io::Result<()>>),
    Stop,
}

impl Broker {
    /// Listens on `listen`, which must be a loopback address; port 0 takes any free one.
    ///
    /// # Errors
    /// When the address is not loopback or cannot be listened on, or the system gives no thread.
    pub fn start(listen: SocketAddr) -> io::Result<Self> {
        if !listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the embedded broker listens on loopback only",
            ));
        }
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (control, orders) = mpsc::unbounded_channel();
        let (sender, received) = crossbeam_channel::bounded(RECEIVED_MAX);
        let thread = std::thread::Builder::new()
            .name("broker".to_owned())
            .spawn(move || {
                LocalSet::new().block_on(&runtime, run(listener, address, orders, sender));
            })?;
        Ok(Self {
            address,
            control,
            received,
            thread: Some(thread),
        })
    }

    /// Where it listens, the same after [`Broker::come_back`].
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every message that clients publish, each before it is acknowledged. All receivers share one queue.
    #[must_use]
    pub fn received(&self) -> Receiver<Received> {
        self.received.clone()
    }

    /// Closes every connection and the listening socket, as a crash would: no DISCONNECT, no last will. Retained
    /// messages stay. Returns when it is done.
    ///
    /// # Errors
    /// When the thread does not answer.
    pub fn go_away(&self) -> io::Result<()> {
        self.order(Order::GoAway)
    }

    /// Listens again after [`Broker::go_away`].
    ///
    /// # Errors
    /// When the port has been taken or the thread does not answer.
    pub fn come_back(&self) -> io::Result<()> {
        self.order(Order::ComeBack)
    }

    /// Ends the broker and waits for its thread.
    pub fn stop(self) {
        drop(self);
    }

    fn order(&self, order: fn(Sender<io::Result<()>>) -> Order) -> io::Result<()> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let gone = || io::Error::other("the broker's thread does not answer");
        self.control.send(order(reply)).map_err(|_| gone())?;
        answer.recv_timeout(OBEY).map_err(|_| gone())?
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The thread may be gone already; either way it is joined.
        let _ = self.control.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts connections and obeys orders.
async fn run(
    listener: std::net::TcpListener,
    address: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Order>,
    received: Sender<Received>,
) {
    let hub = Rc::new(Hub::new(received));
    let mut listener = TcpListener::from_std(listener).ok();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(stream) if connections.len() < CLIENTS_MAX => {
                    connections.spawn_local(connection::serve(stream, Rc::clone(&hub)));
                }
                // One too many is closed at once.
                Ok(_stream) => {}
                // Out of descriptors, or a connection that ended in the queue: wait, so as not to spin.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            order = orders.recv() => match order {
                Some(Order::GoAway(reply)) => {
                    listener = None;
                    // Waits until every socket is dropped.
                    connections.shutdown().await;
                    hub.clients.borrow_mut().clear();
                    // The asker may have given up.
                    let _ = reply.try_send(Ok(()));
                }
                Some(Order::ComeBack(reply)) => {
                    let done = match &listener {
                        Some(_) => Ok(()),
                        None => TcpListener::bind(address).await.map(|again| listener = Some(again)),
                    };
                    let _ = reply.try_send(done);
                }
                Some(Order::Stop) | None => return,
            },
        }
    }
}

/// The next connection; never, while there is no listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        None => pending().await,
    }
}

/// What the connections share.
struct Hub {
    received: Sender<Received>,
    clients: RefCell<BTreeMap<u64, Client>>,
    retained: RefCell<BTreeMap<String, Publish>>,
    next: Cell<u64>,
}

/// One connected client as the others see it.
struct Client {
    client_id: String,
    filters: Vec<String>,
    queue: mpsc::Sender<Publish>,
    /// Tells it that another client has taken its identifier.
    taken_over: Rc<Notify>,
}

impl Hub {
    const fn new(received: Sender<Received>) -> Self {
        Self {
            received,
            clients: RefCell::new(BTreeMap::new()),
            retained: RefCell::new(BTreeMap::new()),
            next: Cell::new(1),
        }
    }

    /// A number for a new client.
    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number
    }

    /// Enters a client; one with the same identifier has to go.
    fn enter(&self, number: u64, client: Client) {
        let mut clients = self.clients.borrow_mut();
        for other in clients.values() {
            if other.client_id == client.client_id {
                other.taken_over.notify_one();
            }
        }
        clients.insert(number, client);
    }

    /// Takes a message: to the owner of the broker first, then to the retained ones and to whoever subscribes.
    async fn take(&self, topic: String, message: Publish) {
        self.tell(Received {
            topic: topic.clone(),
            payload: message.payload.to_vec(),
            retained: message.retain,
        })
        .await;
        if message.retain {
            self.retain(topic.clone(), &message);
        }
        let mut forwarded = message;
        forwarded.retain = false;
        self.forward(&topic, &forwarded);
    }

    /// Waits while the queue is full. Without a reader there is nobody to wait for.
    async fn tell(&self, received: Received) {
        let mut waiting = received;
        while let Err(TrySendError::Full(back)) = self.received.try_send(waiting) {
            waiting = back;
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// An empty payload removes the retained message.
    fn retain(&self, topic: String, message: &Publish) {
        let mut retained = self.retained.borrow_mut();
        if message.payload.is_empty() {
            retained.remove(&topic);
        } else if retained.contains_key(&topic) || retained.len() < RETAINED_MAX {
            retained.insert(topic, message.clone());
        }
    }

    /// To every subscriber once; a slow one misses it.
    fn forward(&self, topic: &str, message: &Publish) {
        for client in self.clients.borrow().values() {
            if client.filters.iter().any(|filter| matches(topic, filter)) {
                let _ = client.queue.try_send(message.clone());
            }
        }
    }

    /// The retained messages that a new filter asks for.
    fn retained(&self, filter: &str) -> Vec<Publish> {
        self.retained
            .borrow()
            .iter()
            .filter(|(topic, _)| matches(topic, filter))
            .map(|(_, message)| message.clone())
            .collect()
    }
}

/// A copy of a message as QoS 0, without what belongs to the publisher's connection.
fn outgoing(mut message: Publish) -> Publish {
    message.qos = QoS::AtMostOnce;
    message.pkid = 0;
    message.dup = false;
    if let Some(properties) = &mut message.properties {
        properties.topic_alias = None;
        properties.subscription_identifiers.clear();
    }
    message
}

/// The bytes of a packet, or nothing when it is larger than the receiver allows.
fn encoded(packet: &Packet, bytes_max: u32) -> Option<BytesMut> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, Some(bytes_max)).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
