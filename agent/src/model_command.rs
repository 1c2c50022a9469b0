//! `quorate model`: packing, checking and choosing model files.
//!
//! Owns: the steps and the words of these commands. Must not: load a model in this process, or print a private key.

pub mod arguments;
mod evidence;

use std::{io::Write, path::Path};

use quorate_models::{Files, Manifest, PackageError, package};

use self::arguments::{ModelCommand, Place, Signer};
use crate::{
    command::PrivateKey,
    durable,
    model::{
        plan::plan,
        slots::{Held, Record, Slots, SlotsError},
        stage::{self, StageError},
        trial::{Measured, Refusal, Trial},
        trust::{ModelError, Opened, Trust, read_package},
    },
    outcome::Outcome,
    settings::{self, Settings},
    status as status_client,
};

/// Does one of the commands.
///
/// # Errors
/// Status 2 for arguments, configuration and files that are refused, 1 for what does not work.
pub fn run(command: &ModelCommand, output: &mut impl Write) -> Result<(), Outcome> {
    match command {
        ModelCommand::Keygen {
            output: file,
            key_id,
        } => keygen(file, key_id, output),
        ModelCommand::Pack { folder, signer } => pack(folder, signer, output),
        ModelCommand::Sign { file, signer } => sign(file, signer, output),
        ModelCommand::Check { path, config } => check(path, config.as_deref(), output),
        ModelCommand::Stage {
            file,
            place,
            allow_downgrade,
        } => stage(file, place, *allow_downgrade, output),
        ModelCommand::Promote { place, force } => step(place, output, |slots, model| {
            slots.advance(&model.id, plan(model), *force)
        }),
        ModelCommand::Rollback { place } => {
            step(place, output, |slots, model| slots.withdraw(&model.id, ""))
        }
        ModelCommand::Status { config, json } => status(config, *json, output),
    }
}

fn keygen(file: &Path, key_id: &str, output: &mut impl Write) -> Result<(), Outcome> {
    let key = PrivateKey::generate().map_err(Outcome::failed)?;
    key.write_new(file).map_err(Outcome::refused)?;
    let public = key.public();
    writeln!(
        output,
        "[[model_keys]]\nid = {key_id:?}\npublic_key = \"{public}\""
    )
    .map_err(Outcome::failed)
}

fn pack(folder: &Path, signer: &Signer, output: &mut impl Write) -> Result<(), Outcome> {
    let refused =
        |error: &dyn std::fmt::Display| Outcome::Refused(format!("{}: {error}", folder.display()));
    let files = Files::read(folder).map_err(|error| refused(&error))?;
    let bundle = files.parts().bundle().map_err(|error| refused(&error))?;
    let budgets = bundle.manifest().budgets;
    let tried = Trial::default().run(&files.parts().framed(), budgets);
    let measured = tried.map_err(|refusal| refused(&refusal))?;
    write_signed(files.parts(), signer)?;
    tell_measured(&measured, output).map_err(Outcome::failed)
}

fn sign(file: &Path, signer: &Signer, output: &mut impl Write) -> Result<(), Outcome> {
    let bytes = read_package(file).map_err(Outcome::refused)?;
    let parts = package::unpack(&bytes)
        .map_err(|error| Outcome::Refused(format!("{}: {error}", file.display())))?;
    write_signed(parts, signer)?;
    writeln!(output, "signed by {}", signer.key_id).map_err(Outcome::failed)
}

fn write_signed(parts: package::Parts<'_>, signer: &Signer) -> Result<(), Outcome> {
    let key = PrivateKey::read(&signer.key).map_err(Outcome::refused)?;
    let packed = package::pack(parts, &signer.key_id, |signed| key.sign(signed));
    let packed = packed.map_err(|error| match error {
        PackageError::KeyName => Outcome::Refused(format!("--key-id: {error}")),
        error => Outcome::refused(error),
    })?;
    let path = &signer.output;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Outcome::Refused("--output: expected a file".into()))?;
    durable::write_whole(durable::parent(path), name, &packed)
        .map_err(|error| Outcome::failed(format!("{}: {error}", path.display())))
}

/// What can be said of a file that is refused: in one word where it has one.
fn refused(error: &ModelError) -> Outcome {
    match error {
        ModelError::Package { error: cause, .. } => {
            Outcome::Refused(format!("{} ({})", error, cause.cause()))
        }
        error => Outcome::refused(error),
    }
}

fn check(path: &Path, config: Option<&Path>, output: &mut impl Write) -> Result<(), Outcome> {
    let trust = match config {
        Some(config) => {
            let settings = Settings::load(config).map_err(Outcome::refused)?;
            Trust::Keys(settings.model_keys)
        }
        None => Trust::Unchecked,
    };
    let opened = trust.open(path).map_err(|error| refused(&error))?;
    describe(&opened, matches!(trust, Trust::Keys(_)), output).map_err(Outcome::failed)?;
    let measured = try_out(&opened).map_err(|refusal| {
        Outcome::failed(format!("{}: does not pass: {refusal}", path.display()))
    })?;
    tell_measured(&measured, output).map_err(Outcome::failed)
}

fn try_out(opened: &Opened) -> Result<Measured, Refusal> {
    Trial::default().run(&opened.framed(), opened.bundle.manifest().budgets)
}

fn describe(opened: &Opened, checked: bool, output: &mut impl Write) -> std::io::Result<()> {
    let manifest = opened.bundle.manifest();
    let Manifest { id, version, .. } = manifest;
    let release = manifest
        .release
        .map_or("none".to_owned(), |it| it.to_string());
    writeln!(output, "model {id} version {version} release {release}")?;
    match &opened.package {
        None => writeln!(output, "folder, not signed")?,
        Some(package) if checked => {
            writeln!(output, "signature of {} is right", package.key_id())?;
        }
        Some(package) => writeln!(
            output,
            "signature of {} NOT CHECKED: no --config with its key",
            package.key_id()
        )?,
    }
    let window = manifest.window;
    writeln!(
        output,
        "window {} ticks of {} ms",
        window.length, window.period_ms
    )?;
    for input in &manifest.inputs {
        let [low, high] = input.range;
        let (quantity, unit) = (&input.quantity, &input.unit);
        writeln!(output, "input {quantity} [{unit}] from {low} to {high}")?;
    }
    for found in &manifest.outputs {
        let threshold = found
            .threshold
            .map_or(String::new(), |it| format!(", alarm above {it}"));
        writeln!(
            output,
            "output {}: {}{threshold}",
            found.name, found.meaning
        )?;
    }
    let vectors = opened.bundle.golden().vectors().len();
    writeln!(
        output,
        "{vectors} golden vectors, licence {}",
        manifest.licence
    )?;
    let digest = opened.bundle.digest();
    writeln!(
        output,
        "model.onnx {} bytes, SHA-256 {digest}",
        manifest.onnx_bytes
    )
}

fn tell_measured(measured: &Measured, output: &mut impl Write) -> std::io::Result<()> {
    let memory = measured.memory_bytes.map_or("unknown".to_owned(), |bytes| {
        format!("{} KiB", bytes / 1_024)
    });
    writeln!(
        output,
        "passes: golden vectors right, loaded in {} ms, 99 % of {} inferences within {} us, {memory} of memory",
        measured.load_ms, measured.inferences, measured.p99_us
    )
}

impl From<StageError> for Outcome {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Slots(error) => error.into(),
            StageError::Model(error) => refused(&error),
            error @ StageError::Trial(_) => Self::failed(error),
            error => Self::refused(error),
        }
    }
}

impl From<SlotsError> for Outcome {
    fn from(error: SlotsError) -> Self {
        match error {
            SlotsError::Downgrade { .. }
            | SlotsError::OnTrial { .. }
            | SlotsError::NotPassed(_)
            | SlotsError::NothingStaged
            | SlotsError::NothingBefore => Self::refused(error),
            error => Self::failed(error),
        }
    }
}

fn stage(
    file: &Path,
    place: &Place,
    may_go_down: bool,
    output: &mut impl Write,
) -> Result<(), Outcome> {
    let (settings, slots) = device(&place.config)?;
    // Read once: what is verified, tried and kept are the same bytes.
    let bytes = read_package(file).map_err(Outcome::refused)?;
    let wanted = place.model.as_deref();
    let record = stage::stage(&settings, &slots, wanted, (file, &bytes), may_go_down)?;
    write_record(&record, output).map_err(Outcome::failed)
}

fn step(
    place: &Place,
    output: &mut impl Write,
    step: impl FnOnce(&Slots, &settings::Model) -> Result<Record, SlotsError>,
) -> Result<(), Outcome> {
    let (settings, slots) = device(&place.config)?;
    let index = match (&place.model, settings.models.len()) {
        (Some(model), _) => stage::find(&settings, model)?,
        (None, 1) => 0,
        (None, count) => {
            let message = format!("--model: expected one of the {count} configured models");
            return Err(Outcome::Refused(message));
        }
    };
    let record = step(&slots, &settings.models[index])?;
    write_record(&record, output).map_err(Outcome::failed)
}

fn status(config: &Path, json: bool, output: &mut impl Write) -> Result<(), Outcome> {
    let (settings, slots) = device(config)?;
    // Without an agent there is no evidence; the slots say the rest.
    let picture = status_client::ask_json(settings.http.listen, "/api/v1/status").ok();
    for model in &settings.models {
        let record = slots.read(&model.id)?;
        let running = picture.as_ref().and_then(|it| evidence::of(it, &model.id));
        if json {
            let mut shown = serde_json::to_value(&record).map_err(Outcome::failed)?;
            if let Some(running) = running {
                shown["evidence"] = running.clone();
            }
            writeln!(output, "{shown}").map_err(Outcome::failed)?;
        } else {
            write_record(&record, output).map_err(Outcome::failed)?;
            evidence::write(model, &record, running, output).map_err(Outcome::failed)?;
        }
    }
    Ok(())
}

fn device(config: &Path) -> Result<(Settings, Slots), Outcome> {
    let settings = Settings::load(config).map_err(Outcome::refused)?;
    let outbox = settings.outbox.as_ref().ok_or_else(|| {
        Outcome::Refused("the configuration has no [outbox]: models lie beside outbox.path".into())
    })?;
    let slots = Slots::beside(&outbox.path);
    Ok((settings, slots))
}

fn write_record(record: &Record, output: &mut impl Write) -> std::io::Result<()> {
    let name = |held: Option<&Held>, none: &str| match held {
        Some(held) => format!("release {} (version {})", held.release, held.version),
        None => none.to_owned(),
    };
    let configured = "the configured bundle";
    let active = name(record.active.as_ref(), configured);
    let proven = match (&record.active, record.confirmed) {
        (None, _) => String::new(),
        (Some(_), true) => ", confirmed".to_owned(),
        (Some(_), false) => format!(", not confirmed, {} starts", record.attempts),
    };
    writeln!(output, "model {}: active {active}{proven}", record.model)?;
    if record.active.is_some() {
        let previous = name(record.previous.as_ref(), configured);
        writeln!(output, "  before it: {previous}")?;
    }
    if let Some(staged) = &record.staged {
        let held = name(Some(&staged.held), configured);
        let tested = match &staged.tested {
            Some(measured) => format!(
                "tested ({} ms to load, {} us an inference)",
                measured.load_ms, measured.p99_us
            ),
            None => "verified, its self-test did not end".to_owned(),
        };
        writeln!(output, "  staged: {held}, {tested}")?;
        if let Some(trial) = &record.trial {
            let passed = if trial.passed { "passed" } else { "not passed" };
            writeln!(output, "  on trial: {}, {passed}", trial.phase.as_str())?;
        }
    }
    if let Some(change) = &record.change {
        let from = name(change.from.as_ref(), configured);
        let what = change.what().trim_start_matches("model-");
        let (cause, detail) = (change.cause.as_str(), &change.detail);
        let more = if detail.is_empty() { "" } else { ": " };
        writeln!(
            output,
            "  last change: {what} from {from}, {cause}{more}{detail}"
        )?;
    }
    Ok(())
}
