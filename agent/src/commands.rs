//! The commands: what each of them wires together, and with which outcome it ends.
//!
//! Owns: the order of the steps of a command. Must not: parse arguments, or do the work of a part.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::Path,
};

use crossbeam_channel::{Receiver, Sender};
use quorate_core::{
    config::{Config, ConfirmBy, RECORD_BYTES_MAX},
    event::Event,
    units::{BootId, Epoch},
};
use quorate_firmware_bridge::trace::Trace;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    assembly::{self, Parts},
    clock::Clock,
    events_command, explain, logging,
    model::{
        boot::{self, Mode, Models},
        keeper,
    },
    mqtt, outbox_command, outbox_look,
    outcome::Outcome,
    replay,
    sensing::Sensing,
    settings::Settings,
    shell::{Ended, Poll},
    sources, status as status_client, store,
};

/// Votes are written in blocks of this size.
const OUTPUT_BYTES: usize = 256 * 1024;
/// Largest packet that is ever sent: the largest record and its envelope, twice over.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the limit is far below 4 GiB"
)]
const PACKET_BYTES_MAX: u32 = 2 * RECORD_BYTES_MAX as u32;

/// `quorate run`: the agent, until SIGTERM or SIGINT.
///
/// # Errors
/// Status 2 for the configuration and the models, 1 for what does not start.
pub fn run(path: &Path) -> Result<(), Outcome> {
    // From here on a signal waits until the agent can end in order.
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(Outcome::failed)?;
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let logging = logging::to_stderr(settings.log_level);
    let models = boot::load(&settings, Mode::Run)?;
    let clock = Clock::real();
    let parts = Parts {
        config: models.config,
        runners: models.runners,
        guards: models.guards,
        keeper: keeper::Options::of(&settings, models.held, models.changes),
        news: models.news,
        store: store_options(&settings)?,
        mqtt: mqtt_options(&settings),
        live: settings.live.clone(),
        listen: settings.http.listen,
        clock,
        keyring: settings.keyring.clone(),
        configuration: settings.shown.clone(),
        logging: Some(logging),
    };
    let sources = sources::sources(&settings, clock);
    let sensing = |events: &Sender<Event>| -> Result<Box<dyn Poll>, Outcome> {
        Ok(Box::new(
            Sensing::spawn(sources, clock, events).map_err(Outcome::failed)?,
        ))
    };
    let (shell, events, listening) = assembly::assemble(parts, sensing)?;
    tracing::info!(device = %settings.device, %listening, "running");
    on_signal(signals, move || {
        let _ = events.send(Event::Stop);
    })
    .map_err(Outcome::failed)?;
    let ended = shell.run();
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Restart => Err(Outcome::Restart),
    }
}

/// `quorate check`: everything that `run` would need, without running it.
///
/// # Errors
/// Status 2 with the first reason.
pub fn check(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let config = boot::load(&settings, Mode::Look)?.config;
    let missing = sources::missing(&settings, Clock::real());
    describe(&settings, &config, &missing, output).map_err(Outcome::failed)?;
    if let Some(outbox) = &settings.outbox {
        outbox_look::check_place(&outbox.path)?;
        describe_outbox(&outbox.path, output).map_err(Outcome::failed)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Outcome::Refused(format!(
        "{} of {} sensors cannot be read",
        missing.len(),
        settings.sensors.len()
    )))
}

/// What a store that is there holds; damage is no reason not to start.
fn describe_outbox(path: &Path, output: &mut impl Write) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    match store::verify(path) {
        Ok(found) if found.is_intact() => writeln!(
            output,
            "outbox holds {} records in {} databases, all intact",
            found.pending,
            found.databases.len()
        ),
        Ok(found) => writeln!(
            output,
            "outbox holds {} intact records and is damaged: the next start names what is gone and goes on",
            found.pending
        ),
        Err(error) => writeln!(output, "{error}"),
    }
}

fn describe(
    settings: &Settings,
    config: &Config,
    missing: &[(String, String)],
    output: &mut impl Write,
) -> io::Result<()> {
    writeln!(output, "device {}", settings.device)?;
    for quantity in &config.quantities {
        let sensors: Vec<_> = quantity
            .sensors
            .iter()
            .map(|id| config.sensors[id.index()].id.as_str())
            .collect();
        writeln!(
            output,
            "quantity {} [{}]: every {} ms from {}; quorum {} of {}",
            quantity.id,
            quantity.unit,
            quantity.period_ms,
            sensors.join(", "),
            quantity.sources_min,
            sensors.len()
        )?;
    }
    for model in &config.models {
        writeln!(
            output,
            "model {} version {} ({}): golden vectors pass",
            model.id, model.version, model.digest
        )?;
    }
    match &settings.outbox {
        Some(outbox) => writeln!(
            output,
            "outbox {} of at most {} bytes",
            outbox.path.display(),
            outbox.size_bytes_max
        )?,
        None => writeln!(output, "outbox: none; `run` needs one")?,
    }
    match &settings.mqtt {
        Some(mqtt) => {
            writeln!(output, "broker {} topic {}", mqtt.url, mqtt.topic)?;
            for fallback in &mqtt.fallback_urls {
                writeln!(output, "broker {fallback} when that fails")?;
            }
            if let Some(profile) = &mqtt.profile {
                writeln!(output, "profile {profile}: within its limits")?;
            }
            if let Some(warning) = mqtt.protocol.warning() {
                writeln!(output, "warning: {warning}")?;
            }
        }
        None => writeln!(output, "broker: none; records are kept in the outbox")?,
    }
    describe_commands(settings, output)?;
    writeln!(output, "endpoint http://{}/", settings.http.listen)?;
    for (sensor, reason) in missing {
        writeln!(output, "sensor {sensor} cannot be read: {reason}")?;
    }
    Ok(())
}

fn describe_commands(settings: &Settings, output: &mut impl Write) -> io::Result<()> {
    let keyring = &settings.keyring;
    for key in &keyring.keys {
        writeln!(
            output,
            "key {} may command: {}",
            key.id,
            key.allow.join(", ")
        )?;
    }
    if !keyring.allow_unsigned.is_empty() {
        let allowed = keyring.allow_unsigned.join(", ");
        writeln!(output, "whoever may publish may command: {allowed}")?;
    }
    Ok(())
}

/// `quorate replay`: a recorded trace in virtual time.
///
/// # Errors
/// Status 2 for the configuration, the models and the trace, 1 when the output cannot be written.
pub fn replay(
    path: &Path,
    input: &Path,
    output: Option<&Path>,
    standard: &mut impl Write,
) -> Result<(), Outcome> {
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let Models {
        config, runners, ..
    } = boot::load(&settings, Mode::Look)?;
    let mut trace = Trace::open(input).map_err(Outcome::refused)?;
    let name = input.display().to_string();
    let result = match output {
        None => replay::run(
            &config,
            runners,
            &name,
            &mut trace,
            &mut BufWriter::with_capacity(OUTPUT_BYTES, standard),
        ),
        Some(output) => {
            let file = File::create(output)
                .map_err(|error| Outcome::failed(format!("{}: {error}", output.display())))?;
            replay::run(
                &config,
                runners,
                &name,
                &mut trace,
                &mut BufWriter::with_capacity(OUTPUT_BYTES, file),
            )
        }
    };
    match result {
        Ok(summary) => {
            tracing::debug!(?summary, "replayed");
            Ok(())
        }
        Err(replay::ReplayError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        Err(error @ replay::ReplayError::Output(_)) => Err(Outcome::failed(error)),
        Err(error) => Err(Outcome::refused(error)),
    }
}

/// `quorate vote explain`: why the vote of a moment is what it is, for one quantity or all.
///
/// # Errors
/// Status 2 for the configuration, the models, the trace and a quantity that is not there, 1 when the output fails.
pub fn vote_explain(
    path: &Path,
    input: &Path,
    at_s: Option<f64>,
    only: Option<&str>,
    output: &mut impl Write,
) -> Result<(), Outcome> {
    let settings = Settings::load(path).map_err(Outcome::refused)?;
    let Models {
        config, runners, ..
    } = boot::load(&settings, Mode::Look)?;
    if let Some(name) = only.filter(|name| config.quantities.iter().all(|it| it.id != *name)) {
        return Err(Outcome::Refused(format!("no quantity `{name}`")));
    }
    let mut trace = Trace::open(input).map_err(Outcome::refused)?;
    let name = input.display().to_string();
    let found =
        replay::explain(&config, runners, &name, &mut trace, at_s).map_err(Outcome::refused)?;
    for (id, explanation) in &found {
        let quantity = &config.quantities[id.index()];
        if only.is_none_or(|only| only == quantity.id) {
            explain::write(&config, quantity, explanation, output).map_err(Outcome::failed)?;
        }
    }
    Ok(())
}

/// `quorate status`: what the running agent says of itself.
///
/// # Errors
/// Status 1 when there is no agent, or it does not answer.
pub fn status(address: SocketAddr, json: bool, output: &mut impl Write) -> Result<(), Outcome> {
    status_client::run(address, json, output).map_err(Outcome::failed)
}

/// `quorate events`: what happened lately.
///
/// # Errors
/// Status 1 when there is no agent, or it does not answer.
pub fn events(address: SocketAddr, json: bool, output: &mut impl Write) -> Result<(), Outcome> {
    events_command::run(address, json, output).map_err(Outcome::failed)
}

/// `quorate outbox stat`.
///
/// # Errors
/// Status 1 when there is no store that can be read.
pub fn outbox_stat(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    outbox_command::stat(path, output).map_err(Outcome::failed)
}

/// What a store was found to lack, for people; a program reads it in `stat` and in the event records.
fn say(finding: &store::Finding) {
    let _ = writeln!(io::stderr(), "quorate: {finding}");
}

/// `quorate outbox list`.
///
/// # Errors
/// Status 1 when there is no store that can be read.
pub fn outbox_list(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    let findings = outbox_command::list(path, output).map_err(Outcome::failed)?;
    findings.iter().for_each(say);
    Ok(())
}

/// `quorate outbox verify`.
///
/// # Errors
/// Status 1 when something that should be there is not, or there is no store that can be read.
pub fn outbox_verify(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    if outbox_look::verify(path, output).map_err(Outcome::failed)? {
        Ok(())
    } else {
        Err(Outcome::failed(
            "the outbox is damaged; the next start names what is gone and goes on",
        ))
    }
}

/// `quorate outbox export`.
///
/// # Errors
/// Status 1 when there is no store that can be read.
pub fn outbox_export(
    path: &Path,
    what: outbox_look::Export,
    output: &mut impl Write,
) -> Result<(), Outcome> {
    let findings = outbox_look::export(path, what, output).map_err(Outcome::failed)?;
    findings.iter().for_each(say);
    Ok(())
}

/// `quorate outbox salvage`.
///
/// # Errors
/// Status 1 when the files cannot be read.
pub fn outbox_salvage(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    outbox_look::salvage(path, output).map_err(Outcome::failed)
}

/// `quorate outbox append`, from standard input.
///
/// # Errors
/// Status 1 when a record cannot be made durable.
pub fn outbox_append(path: &Path, output: &mut impl Write) -> Result<(), Outcome> {
    let clock = Clock::real();
    outbox_command::append(
        path,
        crate::clock::boot_id(),
        || clock.wall(),
        say,
        &mut io::stdin().lock(),
        output,
    )
    .map_err(Outcome::failed)
}

/// After the time limit of a message the connection ends within this, in milliseconds.
const FLIGHT_END_MS: u64 = 60_000;

/// The store as it is configured.
///
/// # Errors
/// Status 2 when none is.
pub fn store_options(settings: &Settings) -> Result<store::Options, Outcome> {
    let outbox = settings.outbox.as_ref().ok_or_else(|| {
        Outcome::Refused(
            "the configuration has no [outbox]: expected outbox.path, where results are kept"
                .into(),
        )
    })?;
    Ok(store::Options {
        path: outbox.path.clone(),
        size_bytes_max: outbox.size_bytes_max,
        commit_interval_ms: outbox.commit_interval_ms,
        commit_records_max: outbox.commit_records_max,
        on_full: outbox.on_full,
        ttl_ms: outbox.ttl_ms,
        // A message without an answer ends its connection after this, and is on its way no more.
        in_flight_ms: settings.mqtt.as_ref().map_or(0, |mqtt| {
            mqtt.outbox.ack_timeout_ms.saturating_add(FLIGHT_END_MS)
        }),
        retain_acked: outbox.retain_acked,
        free_bytes_min: outbox.free_bytes_min,
        ballast_bytes: outbox.ballast_bytes,
    })
}

/// The broker as it is configured, where one is.
#[must_use]
pub fn mqtt_options(settings: &Settings) -> Option<mqtt::Options> {
    let mqtt = settings.mqtt.as_ref()?;
    Some(mqtt::Options {
        device: settings.device.clone(),
        url: mqtt.url.clone(),
        fallback_urls: mqtt.fallback_urls.clone(),
        topic: mqtt.topic.clone(),
        client_id: mqtt.client_id.clone(),
        username: mqtt.username.clone(),
        password_file: mqtt.password_file.clone(),
        ca_file: mqtt.ca_file.clone(),
        client_cert_file: mqtt.cert_file.clone(),
        client_key_file: mqtt.key_file.clone(),
        keep_alive_s: mqtt.keep_alive_s,
        protocol: mqtt.protocol,
        encoding: mqtt.encoding,
        compression: if mqtt.compress {
            mqtt::Compression::Zstd
        } else {
            mqtt::Compression::None
        },
        // The store and the clock know these two; the assembly fills them in.
        epoch: Epoch(0),
        boot: BootId::default(),
        incoming: None,
        watermark: mqtt.outbox.confirm == ConfirmBy::Watermark,
        credentials: mqtt::credentials_directory(),
        certificates: None,
        connect_timeout_ms: mqtt.link.connect_timeout_ms,
        packet_bytes_max: PACKET_BYTES_MAX,
        inflight_max: u16::try_from(mqtt.outbox.inflight_batches_max).unwrap_or(u16::MAX),
        version: env!("CARGO_PKG_VERSION").into(),
    })
}

/// Tells when SIGTERM or SIGINT came.
#[must_use]
pub fn ended() -> Receiver<()> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let heard = Signals::new([SIGTERM, SIGINT]).and_then(|signals| {
        on_signal(signals, move || {
            let _ = sender.send(());
        })
    });
    if let Err(error) = heard {
        tracing::error!(%error, "signals are not heard");
    }
    receiver
}

/// Does `deed` once, at the first SIGTERM or SIGINT.
fn on_signal(mut signals: Signals, deed: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                deed();
            }
        })?;
    Ok(())
}
