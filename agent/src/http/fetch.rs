//! Fetching a file from a web server: the other side of HTTP/1.1.
//!
//! Owns: one bounded request, resumed where it stopped. Must not: know what is fetched, or believe it.
//!
//! Invariants: nothing is buffered but one frame; a server that says nothing for `SILENCE` is left; what goes beyond the
//! length that was asked for ends the transfer; from TLS no redirection leads to plain text.

use std::{io, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_RANGE, HOST, LOCATION, RANGE, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::mqtt::web::{self, Authorities};

/// Longest silence of a server, from the first connection on.
const SILENCE: Duration = Duration::from_secs(30);
/// Most redirections.
const REDIRECTIONS_MAX: usize = 4;

/// Why a file was not fetched, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none that can be fetched.
    #[error("{0}")]
    Address(&'static str),
    /// The connection.
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    /// The server was silent.
    #[error("the server was silent for {} s", SILENCE.as_secs())]
    Silent,
    /// Not HTTP as it should be.
    #[error("HTTP: {0}")]
    Http(String),
    /// The server answered, and not with the file.
    #[error("the server answered {0}")]
    Status(u16),
    /// More came than was asked for.
    #[error("the file is longer than {0} bytes")]
    TooLong(u64),
    /// What came cannot be kept.
    #[error("cannot be kept: {0}")]
    Sink(#[source] io::Error),
}

impl FetchError {
    /// Whether asking again may help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Address(_) | Self::TooLong(_) => false,
            Self::Status(code) => matches!(code, 408 | 425 | 429 | 500..=599),
            _ => true,
        }
    }
}

/// What a transfer brings.
#[derive(Debug)]
pub enum Piece<'a> {
    /// The bytes that follow stand at this place of the file.
    Begin(u64),
    /// The next bytes.
    Bytes(&'a [u8]),
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// `https://` or `http://`.
    pub url: &'a str,
    /// Bytes that are there already.
    pub from: u64,
    /// Length of the whole file.
    pub bytes: u64,
    /// Whom to trust.
    pub authorities: Authorities<'a>,
}

/// Fetches the rest of a file, blocking this thread.
///
/// # Errors
/// [`FetchError`]; what came until then was handed to `sink`.
pub fn fetch(
    wanted: Wanted<'_>,
    mut sink: impl FnMut(Piece<'_>) -> io::Result<()>,
) -> Result<(), FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(FetchError::Connect)?;
    runtime.block_on(transfer(wanted, &mut sink))
}

async fn transfer(
    wanted: Wanted<'_>,
    sink: &mut impl FnMut(Piece<'_>) -> io::Result<()>,
) -> Result<(), FetchError> {
    let mut uri: Uri = wanted
        .url
        .parse()
        .map_err(|_| FetchError::Address("expected an address such as https://host/file"))?;
    for _ in 0..=REDIRECTIONS_MAX {
        let response = within(ask(&uri, wanted)).await?;
        let status = response.status();
        if status.is_redirection() {
            uri = redirected(&uri, &response)?;
            continue;
        }
        let at = match status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => begins(&response)
                .filter(|at| *at <= wanted.from)
                .ok_or_else(|| FetchError::Http("another range than was asked for".into()))?,
            other => return Err(FetchError::Status(other.as_u16())),
        };
        return receive(response.into_body(), at, wanted.bytes, sink).await;
    }
    Err(FetchError::Address("too many redirections"))
}

async fn receive(
    mut body: Incoming,
    at: u64,
    bytes: u64,
    sink: &mut impl FnMut(Piece<'_>) -> io::Result<()>,
) -> Result<(), FetchError> {
    sink(Piece::Begin(at)).map_err(FetchError::Sink)?;
    let mut found = at;
    while let Some(frame) = within(async { Ok(body.frame().await) }).await? {
        let frame = frame.map_err(|error| FetchError::Http(error.to_string()))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        found = found.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if found > bytes {
            return Err(FetchError::TooLong(bytes));
        }
        sink(Piece::Bytes(data)).map_err(FetchError::Sink)?;
    }
    Ok(())
}

async fn within<T>(deed: impl Future<Output = Result<T, FetchError>>) -> Result<T, FetchError> {
    timeout(SILENCE, deed)
        .await
        .unwrap_or(Err(FetchError::Silent))
}

async fn ask(uri: &Uri, wanted: Wanted<'_>) -> Result<Response<Incoming>, FetchError> {
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(FetchError::Address("expected https:// or http://")),
    };
    let authority = uri
        .authority()
        .ok_or(FetchError::Address("expected a host"))?;
    let host = authority.host();
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let port = authority
        .port_u16()
        .unwrap_or(if secure { 443 } else { 80 });
    let stream = web::dial(name, port, SILENCE / 2)
        .await
        .map_err(FetchError::Connect)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, authority.as_str().rsplit('@').next().unwrap_or(host))
        .header(USER_AGENT, concat!("quorate/", env!("CARGO_PKG_VERSION")));
    let request = if wanted.from > 0 {
        request.header(RANGE, format!("bytes={}-", wanted.from))
    } else {
        request
    };
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Http(error.to_string()))?;
    if secure {
        let stream = web::secure(name, stream, wanted.authorities)
            .await
            .map_err(FetchError::Connect)?;
        send(TokioIo::new(stream), request).await
    } else {
        send(TokioIo::new(stream), request).await
    }
}

async fn send(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Response<Incoming>, FetchError> {
    let of_http = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(stream).await.map_err(of_http)?;
    // It ends with the body, or with the runtime.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(of_http)
}

/// Where a range begins, as the server says it: `bytes 7-99/100`.
fn begins(response: &Response<Incoming>) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    let numbers = range.strip_prefix("bytes ")?;
    numbers.split('-').next()?.trim().parse().ok()
}

fn redirected(from: &Uri, response: &Response<Incoming>) -> Result<Uri, FetchError> {
    let wrong = FetchError::Address("a redirection to nowhere");
    let Some(to) = response.headers().get(LOCATION) else {
        return Err(wrong);
    };
    let to: Uri = match to.to_str().ok().and_then(|to| to.parse().ok()) {
        Some(to) => to,
        None => return Err(wrong),
    };
    let mut parts = to.into_parts();
    if parts.scheme.is_none() {
        (parts.scheme, parts.authority) = (from.scheme().cloned(), from.authority().cloned());
    }
    let to = Uri::from_parts(parts).map_err(|_| wrong)?;
    if from.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        return Err(FetchError::Address("a redirection from TLS to plain text"));
    }
    Ok(to)
}

#[cfg(test)]
pub(crate) mod tests;
