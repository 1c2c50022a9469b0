//! The other end of the stream: a subscriber that acknowledges a message only when it is told to.
//!
//! Owns: the connection of `quorate collect`. Must not: open a payload, or decide what is stored.
//!
//! Invariants: the session stays at the broker while we are away, so that what is published meanwhile waits there. Each
//! connection has a client object of its own; an acknowledgement for an earlier connection is dropped, because its packet
//! identifier means nothing any more. What waits for the caller is bounded by the Receive Maximum.

use std::{io, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, Sender};
use quorate_core::event::LinkFault;
use rumqttc::{
    AckMode, AsyncClient, BrokerSessionResumePolicy, Event, EventLoop, ManualAck, MqttOptions,
    Packet, PublishOptions, QoS, SessionMode, SubscribeReasonCode,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{Options, prepared::prepared, protocol};

/// Most messages that the broker sends before the first of them is acknowledged.
const RECEIVE_MAX: u16 = 64;
/// Largest packet in bytes that is taken: twice the largest that an agent sends.
const PACKET_BYTES_MAX: u32 = 2 << 20;
/// Requests (acknowledgements, confirmations) that may wait for the client.
const REQUESTS_MAX: usize = 512;
/// How long the broker keeps the session after the connection ended, in seconds: a week.
const SESSION_EXPIRY_S: u32 = 7 * 24 * 3600;
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Shortest wait between two attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Where a message stands in its connection; needed to acknowledge it.
#[derive(Clone, Debug)]
pub struct Token {
    connection: u64,
    ack: ManualAck,
}

/// What the subscriber tells.
#[derive(Debug)]
pub enum Told {
    /// The subscription holds.
    Up,
    /// There is no connection; the next attempt comes by itself.
    Down(String),
    /// One message.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
        /// For [`Request::Acknowledge`]; `None` for what needs no acknowledgement.
        token: Option<Token>,
    },
}

/// What the caller asks.
#[derive(Debug)]
pub enum Request {
    /// The message is stored.
    Acknowledge(Token),
    /// Publish with QoS 1, not retained; dropped without a connection.
    Publish {
        /// The topic.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// End the connection and the thread.
    Stop,
}

/// The way to a subscriber; never waits.
pub type Requests = mpsc::UnboundedSender<Request>;

/// The two ways of a subscriber and its thread.
#[derive(Debug)]
pub struct Subscriber {
    /// What it tells.
    pub told: Receiver<Told>,
    /// What it is asked.
    pub requests: Requests,
    /// Ends after [`Request::Stop`].
    pub thread: JoinHandle<()>,
}

/// Starts the thread: it connects, subscribes to `filter` with QoS 1 and goes on until it is told to stop.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn spawn(options: Options, filter: String) -> io::Result<Subscriber> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()?;
    let (tell, told) = crossbeam_channel::bounded(usize::from(RECEIVE_MAX) * 2);
    let (requests, asked) = mpsc::unbounded_channel();
    let thread = std::thread::Builder::new()
        .name("subscriber".to_owned())
        .spawn(move || {
            runtime.block_on(serve(&options, &filter, &tell, asked));
            runtime.shutdown_background();
        })?;
    Ok(Subscriber {
        told,
        requests,
        thread,
    })
}

/// The caller is gone, or asked to stop.
struct Stopped;

async fn serve(
    options: &Options,
    filter: &str,
    tell: &Sender<Told>,
    mut asked: mpsc::UnboundedReceiver<Request>,
) {
    let mut wait = BACKOFF_MIN;
    for connection in 0_u64.. {
        let began = Instant::now();
        let Ok(fault) = serve_one(options, filter, connection, tell, &mut asked).await else {
            return;
        };
        if began.elapsed() > BACKOFF_MAX {
            wait = BACKOFF_MIN;
        }
        if tell.send(Told::Down(fault)).is_err() {
            return;
        }
        let until = Instant::now() + wait.mul_f64(fastrand::f64().max(0.1));
        while let Ok(request) = timeout_at(until, asked.recv()).await {
            if matches!(request, None | Some(Request::Stop)) {
                return;
            }
        }
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

/// One connection to its end; the text says why it ended.
async fn serve_one(
    options: &Options,
    filter: &str,
    connection: u64,
    tell: &Sender<Told>,
    asked: &mut mpsc::UnboundedReceiver<Request>,
) -> Result<String, Stopped> {
    let prepared = match prepare(options) {
        Ok(prepared) => prepared,
        Err(fault) => return Ok(format!("{}: {}", fault.cause, fault.detail)),
    };
    let (client, eventloop) = AsyncClient::builder(prepared)
        .capacity(REQUESTS_MAX)
        .build();
    let (relay, mut heard) = mpsc::channel(usize::from(RECEIVE_MAX));
    let mut driven = Box::pin(drive(eventloop, relay));
    // A living broker answers a ping once per keep-alive.
    let silence_max = protocol::silence_max(options.keep_alive_s);
    let mut deadline = Instant::now() + protocol::connect_timeout(options).max(silence_max);
    loop {
        tokio::select! {
            fault = &mut driven => return Ok(fault),
            () = sleep_until(deadline) => return Ok("the broker has been silent for 1.5 keep-alives".to_owned()),
            Some(packet) = heard.recv() => { deadline = Instant::now() + silence_max; match packet {
                Packet::ConnAck(_) if client.try_subscribe(filter.to_owned(), QoS::AtLeastOnce).is_err() => {
                    return Ok("the client takes no subscription".to_owned());
                }
                Packet::SubAck(suback) => {
                    if let Some(SubscribeReasonCode::Success(_)) = suback.return_codes.first() {
                        tell.send(Told::Up).map_err(|_| Stopped)?;
                    } else {
                        return Ok(format!("the broker refuses the subscription to {filter}"));
                    }
                }
                Packet::Publish(publish) => {
                    let token = client.prepare_ack(&publish).map(|ack| Token { connection, ack });
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    let payload = publish.payload.to_vec();
                    // Room for the whole Receive Maximum: this waits for a moment at most while the caller stores.
                    tell.send(Told::Message { topic, payload, token }).map_err(|_| Stopped)?;
                }
                _ => {}
            } },
            request = asked.recv() => match request {
                Some(Request::Acknowledge(token)) if token.connection == connection => {
                    if client.try_manual_ack(token.ack).is_err() {
                        return Ok("the client takes no acknowledgement".to_owned());
                    }
                }
                // A packet identifier of an earlier connection.
                Some(Request::Acknowledge(_)) => {}
                Some(Request::Publish { topic, payload }) => {
                    // One that is dropped is repeated with the next message that is stored.
                    let _ = client.try_publish(topic, payload, PublishOptions::at_least_once());
                }
                Some(Request::Stop) | None => {
                    farewell(&client, &mut driven).await;
                    return Err(Stopped);
                }
            },
        }
    }
}

/// Says DISCONNECT after what is queued, for at most a second.
async fn farewell(client: &AsyncClient, driven: &mut (impl Future<Output = String> + Unpin)) {
    if client.try_disconnect().is_ok() {
        let until = Instant::now() + Duration::from_secs(1);
        // It ends with the socket, or its time is over; either way the session stays at the broker.
        let _ = timeout_at(until, driven).await;
    }
}

fn prepare(options: &Options) -> Result<MqttOptions, LinkFault> {
    let mut prepared = prepared(options)?;
    prepared
        .set_session_mode(SessionMode::Persistent)
        .set_session_expiry_interval(Some(SESSION_EXPIRY_S))
        .set_broker_session_resume_policy(BrokerSessionResumePolicy::AllowBrokerOnly)
        .set_ack_mode(AckMode::Manual)
        .set_receive_maximum(Some(RECEIVE_MAX))
        .set_max_packet_size(Some(PACKET_BYTES_MAX));
    Ok(prepared)
}

/// Polls the client until it fails and passes on what the broker says.
async fn drive(mut eventloop: EventLoop, relay: mpsc::Sender<Packet>) -> String {
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(packet)) => {
                if relay.send(packet).await.is_err() {
                    return "closed".to_owned();
                }
            }
            Ok(_) => {}
            Err(error) => {
                let mut text = error.to_string();
                text.truncate(text.floor_char_boundary(256));
                // The broker needs a moment to notice; without one a loop of refusals would be tight.
                sleep(Duration::from_millis(10)).await;
                return text;
            }
        }
    }
}
