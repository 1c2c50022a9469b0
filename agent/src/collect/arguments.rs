//! The arguments of `quorate collect`.
//!
//! Owns: their defaults and the relations between them. Must not: take a secret: the password is in a file.

use std::path::PathBuf;

use quorate_core::units::{BootId, Epoch};

use crate::{
    mqtt::{self, Compression, Encoding, Options, Protocol},
    outcome::Outcome,
};

/// Where to subscribe, and where to put what comes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address of the broker: mqtts://host, or mqtt://host on loopback.
    #[arg(long, required_unless_present = "report")]
    pub url: Option<String>,
    /// The file: JSON lines for .jsonl and .ndjson, else SQLite.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What to subscribe to.
    #[arg(long, default_value = "quorate/+/data", value_name = "FILTER")]
    pub topic: String,
    /// Client identifier; two collectors need two.
    #[arg(long, default_value = "quorate-collect")]
    pub client_id: String,
    /// User name.
    #[arg(long)]
    pub username: Option<String>,
    /// File with the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Certificate authorities to trust, PEM; the system's when not given.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Certificate of this collector, PEM.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Accept mqtt:// beyond loopback: everything, passwords too, is readable on the way.
    #[arg(long)]
    pub allow_plaintext: bool,
    /// Do not tell the devices what is stored.
    #[arg(long)]
    pub no_watermark: bool,
    /// Print what the file holds and what is missing in it, one stream a line, and end.
    #[arg(long, conflicts_with = "url")]
    pub report: bool,
}

impl Arguments {
    /// What the connection needs.
    ///
    /// # Errors
    /// Status 2 for an address that is none, or that would send in the clear.
    pub fn options(&self) -> Result<Options, Outcome> {
        let text = self.url.as_deref().unwrap_or_default();
        let url = mqtt::parse_url(text)
            .map_err(|expected| Outcome::Refused(format!("--url {text}: {expected}")))?;
        if !url.tls && !url.is_loopback() && !self.allow_plaintext {
            return Err(Outcome::Refused(format!(
                "--url {text}: mqtt:// sends everything in the clear; expected mqtts://, or --allow-plaintext"
            )));
        }
        if self.topic.is_empty() || self.topic.len() > 1024 || self.topic.contains('\0') {
            let topic = &self.topic;
            return Err(Outcome::Refused(format!(
                "--topic {topic}: expected a topic filter"
            )));
        }
        Ok(Options {
            device: self.client_id.clone(),
            url,
            fallback_urls: Vec::new(),
            incoming: None,
            watermark: false,
            credentials: None,
            certificates: None,
            topic: self.topic.clone(),
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            client_cert_file: self.cert_file.clone(),
            client_key_file: self.key_file.clone(),
            keep_alive_s: 30,
            protocol: Protocol::Mqtt5,
            encoding: Encoding::Json,
            compression: Compression::None,
            epoch: Epoch(0),
            connect_timeout_ms: 30_000,
            packet_bytes_max: 1 << 16,
            inflight_max: 64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: BootId([0; 16]),
        })
    }
}
