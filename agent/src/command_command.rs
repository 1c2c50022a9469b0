//! `quorate command`: keys for commands, and signed commands, on the machine of whoever gives them.
//!
//! Owns: what the two commands print. Must not: send anything, or print a private key.

use std::{io::Write, path::Path};

use crate::{
    clock::Clock,
    command::{Envelope, PrivateKey, sign as sign_envelope},
    outcome::Outcome,
};

/// A command to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Name of the key.
    pub id: String,
    /// Name of the device.
    pub device: String,
    /// The number; the time in milliseconds where there is none.
    pub counter: Option<u64>,
    /// The command.
    pub command: String,
    /// Its arguments, a JSON object.
    pub arguments: String,
    /// RFC 3339.
    pub expires: Option<String>,
}

/// Makes a private key and prints what the configuration of a device needs of it.
///
/// # Errors
/// Status 2 when the file exists or cannot be written, 1 when the output fails.
pub fn keygen(file: &Path, id: &str, output: &mut impl Write) -> Result<(), Outcome> {
    let key = PrivateKey::generate().map_err(Outcome::failed)?;
    key.write_new(file).map_err(Outcome::refused)?;
    writeln!(
        output,
        "[[command_keys]]\nid = {id:?}\npublic_key = \"{}\"\nallow = [\"ping\", \"status\"]",
        key.public()
    )
    .map_err(Outcome::failed)
}

/// Signs a command and prints the payload.
///
/// # Errors
/// Status 2 when the key cannot be read, or the arguments or the time are none; 1 when the output fails.
pub fn sign(key: &Path, order: Order, output: &mut impl Write) -> Result<(), Outcome> {
    let key = PrivateKey::read(key).map_err(Outcome::refused)?;
    let arguments = serde_json::from_str(&order.arguments).map_err(|error| {
        Outcome::Refused(format!("--arguments: expected a JSON object: {error}"))
    })?;
    if let Some(expires) = &order.expires {
        expires
            .parse::<jiff::Timestamp>()
            .map_err(|error| Outcome::Refused(format!("--expires: {error}")))?;
    }
    let now = || u64::try_from(Clock::real().wall().unix_ms).unwrap_or(0);
    let envelope = Envelope {
        key: order.id,
        counter: order.counter.unwrap_or_else(now),
        device: order.device,
        command: order.command,
        arguments,
        expires: order.expires,
    };
    writeln!(output, "{}", sign_envelope(&envelope, &key)).map_err(Outcome::failed)
}
