//! The connection of the live views, apart from that of the records.
//!
//! Owns: a client of its own with another client identifier. Must not: touch the stream of records, or wait for anything
//! of it.
//!
//! Invariants: a fresh client object for each connection. What finds no room is dropped: a view wants the newest.

use std::{io, sync::Arc, time::Duration};

use quorate_core::event::{LinkFault, StoredRecord};
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, PublishOptions, QoS, SessionMode,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Options,
    prepared::prepared,
    protocol,
    setup::{INCOMING_BYTES_MAX, REQUESTS_PER_FLUSH},
};
use crate::live::{Outgoing, SIGHTS_MAX, Sight, Views};

/// Messages that may wait for the client; a discovery of a thousand quantities fits.
const REQUESTS_MAX: usize = 4_096;
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Shortest wait between two attempts.
const BACKOFF_MIN: Duration = Duration::from_secs(1);

/// The way of records to the views; never waits.
#[derive(Clone, Debug)]
pub struct Feed(mpsc::Sender<Arc<[u8]>>);

impl Feed {
    /// Shows a record to the views. One that finds no room is dropped.
    pub fn offer(&self, record: &StoredRecord) {
        let _ = self.0.try_send(Arc::clone(&record.payload));
    }
}

/// Starts the thread of the views; it ends when the feed does. The connection is that of `options`, with `-live` behind
/// the client identifier.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub fn spawn(options: Options, views: Views) -> io::Result<Feed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()?;
    let (sender, feed) = mpsc::channel(SIGHTS_MAX);
    let options = Options {
        client_id: format!("{}-live", options.client_id),
        ..options
    };
    std::thread::Builder::new()
        .name("live".to_owned())
        .spawn(move || {
            runtime.block_on(serve(&options, views, feed));
            runtime.shutdown_background();
        })?;
    Ok(Feed(sender))
}

type Records = mpsc::Receiver<Arc<[u8]>>;

/// The feed has ended.
struct Ended;

async fn serve(options: &Options, mut views: Views, mut feed: Records) {
    let mut wait = BACKOFF_MIN;
    loop {
        let Ok(was_up) = serve_one(options, &mut views, &mut feed).await else {
            return;
        };
        views.disconnected();
        if was_up {
            wait = BACKOFF_MIN;
        }
        // Meanwhile the views go on seeing, so that nothing of it is old when the connection is back.
        let until = Instant::now() + wait.mul_f64(fastrand::f64().max(0.1));
        loop {
            tokio::select! {
                () = sleep_until(until) => break,
                record = feed.recv() => match record {
                    Some(record) => { let _ = see(&mut views, &record); }
                    None => return,
                },
            }
        }
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

fn see(views: &mut Views, record: &[u8]) -> Vec<Outgoing> {
    Sight::of(record).map_or_else(Vec::new, |sight| views.see(&sight))
}

/// One connection to its end; tells whether it came up.
async fn serve_one(
    options: &Options,
    views: &mut Views,
    feed: &mut Records,
) -> Result<bool, Ended> {
    let Ok(prepared) = prepare(options, views.will()) else {
        // The connection of the records says what is wrong.
        return Ok(false);
    };
    let (client, eventloop) = AsyncClient::builder(prepared)
        .capacity(REQUESTS_MAX)
        .build();
    let (relay, mut heard) = mpsc::channel(64);
    let mut driven = Box::pin(drive(eventloop, relay));
    let silence_max = protocol::silence_max(options.keep_alive_s);
    let mut deadline = Instant::now() + protocol::connect_timeout(options);
    let mut up = false;
    loop {
        let messages = tokio::select! {
            () = &mut driven => return Ok(up),
            () = sleep_until(deadline) => return Ok(up),
            Some(packet) = heard.recv() => {
                deadline = Instant::now() + silence_max;
                match packet {
                    Packet::ConnAck(_) => {
                        up = true;
                        if let Some(filter) = views.filter() {
                            // Without it a host cannot ask for a new birth; the rest works.
                            let _ = client.try_subscribe(filter, QoS::AtLeastOnce);
                        }
                        views.connected()
                    }
                    Packet::Publish(publish) => views.hear(&String::from_utf8_lossy(&publish.topic), &publish.payload),
                    _ => Vec::new(),
                }
            }
            record = feed.recv() => match record {
                Some(record) => see(views, &record),
                None => return Err(Ended),
            },
        };
        for message in messages.into_iter().filter(|_| up) {
            let how = if message.retained {
                PublishOptions::at_least_once().retain(true)
            } else {
                PublishOptions::at_most_once()
            };
            let _ = client.try_publish(message.topic, message.payload, how);
        }
    }
}

fn prepare(options: &Options, will: Option<Outgoing>) -> Result<MqttOptions, LinkFault> {
    let mut prepared = prepared(options)?;
    prepared
        .set_session_mode(SessionMode::Clean)
        .set_max_packet_size(Some(INCOMING_BYTES_MAX))
        .set_max_request_batch(REQUESTS_PER_FLUSH);
    if let Some(will) = will {
        let quality = QoS::AtLeastOnce;
        prepared.set_last_will(LastWill::new(
            will.topic,
            will.payload,
            quality,
            false,
            None,
        ));
    }
    Ok(prepared)
}

/// Polls the client until it fails and passes on what the broker says.
async fn drive(mut eventloop: EventLoop, relay: mpsc::Sender<Packet>) {
    while let Ok(event) = eventloop.poll().await {
        if let Event::Incoming(packet) = event
            && relay.send(packet).await.is_err()
        {
            return;
        }
    }
}
