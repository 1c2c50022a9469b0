//! The local endpoint: health, metrics and a live page over HTTP/1.1.
//!
//! Owns: the listening socket, its thread, its runtime and its limits, and the newest picture of the agent. Must not:
//! decide anything or change anything; every request is a read.
//!
//! Invariants: nothing here can delay a vote (the agent only replaces the picture and never waits); at most
//! `CONNECTIONS_MAX` connections exist and each ends within a bounded time, whatever its client does.

pub mod fetch;
mod metrics;
mod recent;
mod routes;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use quorate_core::{
    health::Health,
    units::{BootId, Epoch, WallAnchor},
};
use tokio::sync::{Semaphore, watch};

use crate::timing::BusTiming;

/// Most connections at one time; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 64;
/// Most bytes of a request's line and headers.
const HEADERS_BYTES_MAX: usize = 8 * 1024;
/// A client has this long to send its headers.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no descriptors left) the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; end what uses that address or set another `listen` under [http]"
    )]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start the thread of the endpoint: {0}")]
    Start(#[source] io::Error),
}

/// Where to listen, and what to say of oneself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Name of the device.
    pub device: String,
    /// Version of the agent.
    pub version: &'static str,
    headers_timeout: Duration,
}

impl Options {
    /// Options with the usual limits.
    #[must_use]
    pub const fn new(listen: SocketAddr, device: String, version: &'static str) -> Self {
        Self {
            listen,
            device,
            version,
            headers_timeout: HEADERS_TIMEOUT,
        }
    }
}

/// What the agent shows of itself at one time.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The picture.
    pub health: Health,
    /// The wall clock when it was taken.
    pub wall: WallAnchor,
    /// Life of the store.
    pub epoch: Epoch,
    /// Samples that were not asked for because their bus was busy.
    pub polls_dropped: u64,
    /// How punctual each bus is.
    pub timing: Vec<BusTiming>,
}

/// One picture of the agent, with what gives its times a meaning.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it shows.
    pub shown: Shown,
    /// The boot that its monotonic times belong to.
    pub boot: BootId,
    /// Real time of publication: tells a picture that is no longer renewed.
    published: Instant,
}

/// Every part that is not well, and how it is; the core's own parts alone.
#[must_use]
pub fn faults(health: &Health) -> Vec<(String, String)> {
    status::faults(health)
}

/// The picture as JSON, the same as `/api/v1/status` gives.
#[must_use]
pub fn status_json(device: &str, version: &str, boot: BootId, shown: Shown) -> String {
    let snapshot = Snapshot {
        shown,
        boot,
        published: Instant::now(),
    };
    status::picture(device, version, &snapshot).to_string()
}

/// The agent's end: replaces the picture.
#[derive(Debug)]
pub struct Publisher {
    boot: BootId,
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    recent: recent::Recent,
}

impl Publisher {
    /// Replaces the picture; never waits for a reader.
    pub fn publish(&self, shown: Shown) {
        let snapshot = Snapshot {
            shown,
            boot: self.boot,
            published: Instant::now(),
        };
        self.sender.send_replace(Some(Arc::new(snapshot)));
    }

    /// Keeps an event record for whoever asks what happened lately.
    pub fn tell(&self, payload: &Arc<[u8]>) {
        self.recent.push(payload);
    }

    /// One more reader.
    #[must_use]
    pub fn watch(&self) -> Watcher {
        Watcher(self.sender.subscribe(), self.recent.clone())
    }
}

/// A reader's end.
#[derive(Clone, Debug)]
pub struct Watcher(watch::Receiver<Option<Arc<Snapshot>>>, recent::Recent);

impl Watcher {
    /// The newest picture; absent until the agent has shown itself once.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.0.borrow().clone()
    }

    /// The last event records as JSON, oldest first.
    #[must_use]
    pub fn events_json(&self) -> String {
        self.1.json()
    }

    async fn closed(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// Both ends of the picture of the agent in this boot.
#[must_use]
pub fn publisher(boot: BootId) -> (Publisher, Watcher) {
    let (sender, receiver) = watch::channel(None);
    let recent = recent::Recent::default();
    let publisher = Publisher {
        boot,
        sender,
        recent: recent.clone(),
    };
    (publisher, Watcher(receiver, recent))
}

/// Binds, then serves on a thread of its own until the [`Publisher`] is dropped. Returns the bound address.
///
/// # Errors
/// When the address cannot be listened on or the thread cannot be made.
pub fn spawn(
    options: Options,
    watcher: Watcher,
) -> Result<(SocketAddr, JoinHandle<()>), HttpError> {
    let bind = |source| HttpError::Bind {
        address: options.listen,
        source,
    };
    let listener = TcpListener::bind(options.listen).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(HttpError::Start)?;
    let listener = {
        let _entered = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(HttpError::Start)?
    };
    let timeout = options.headers_timeout;
    let site = Arc::new(routes::Site {
        device: options.device,
        version: options.version,
        local_only: address.ip().is_loopback(),
        watcher: watcher.clone(),
    });
    let thread = std::thread::Builder::new()
        .name("http".into())
        .spawn(move || runtime.block_on(serve(listener, site, watcher, timeout)))
        .map_err(HttpError::Start)?;
    Ok((address, thread))
}

async fn serve(
    listener: tokio::net::TcpListener,
    site: Arc<routes::Site>,
    mut watcher: Watcher,
    timeout: Duration,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async {
        loop {
            let permit = Arc::clone(&permits)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let site = Arc::clone(&site);
            tokio::spawn(async move {
                let service = service_fn(|request: hyper::Request<Incoming>| {
                    let answer = site.answer(request.method(), request.uri(), request.headers());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(timeout)
                    .max_buf_size(HEADERS_BYTES_MAX)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                // A client that does not read its answer is cut off too. What a client does wrong is its own affair.
                let _ = tokio::time::timeout(timeout.saturating_mul(2), connection).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = watcher.closed() => {}
    }
}
