//! The rules that a manifest's values obey, beyond having the right type.
//!
//! Pure. Every refusal names the key with its path and says what was expected and what was found.

use super::{
    Figures, Input, Manifest, ManifestError, ONNX_BYTES_MAX, Training, WINDOW_ELEMENTS_MAX, Window,
    refuse, shorten,
};

/// Most characters of an identifier, unit or version.
const NAME_CHARACTERS_MAX: usize = 64;
/// Most characters of a free text.
const TEXT_CHARACTERS_MAX: usize = 2_048;
/// Longest time between two ticks: one day.
const PERIOD_MS_MAX: u64 = 86_400_000;
/// Most outputs. A model that gives more is not made for this agent.
const OUTPUTS_MAX: usize = 64;

impl Manifest {
    pub(super) fn check(&self) -> Result<(), ManifestError> {
        check_name("id", &self.id)?;
        check_text("version", &self.version, NAME_CHARACTERS_MAX)?;
        check_text("licence", &self.licence, NAME_CHARACTERS_MAX)?;
        if self.onnx_bytes == 0 || self.onnx_bytes > ONNX_BYTES_MAX {
            let found = self.onnx_bytes;
            return refuse(
                "onnx_bytes",
                format!("expected 1 to {ONNX_BYTES_MAX}, found {found}"),
            );
        }
        self.check_window()?;
        for (index, input) in self.inputs.iter().enumerate() {
            input.check(&format!("inputs[{index}]"))?;
        }
        check_unique(
            "inputs",
            "quantity",
            self.inputs.iter().map(|input| &input.quantity),
        )?;
        self.check_outputs()?;
        self.check_missing()?;
        for (key, number) in [
            ("release", self.release),
            ("budgets.load_ms_max", self.budgets.load_ms_max),
            ("budgets.p99_us_max", self.budgets.p99_us_max),
            ("budgets.memory_bytes_max", self.budgets.memory_bytes_max),
        ] {
            if number == Some(0) {
                return refuse(key, "expected at least 1, found 0");
            }
        }
        self.training.check()
    }

    fn check_window(&self) -> Result<(), ManifestError> {
        let Window { length, period_ms } = self.window;
        if length == 0 {
            return refuse("window.length", "expected at least 1 tick, found 0");
        }
        if period_ms == 0 || period_ms > PERIOD_MS_MAX {
            return refuse(
                "window.period_ms",
                format!("expected 1 to {PERIOD_MS_MAX}, found {period_ms}"),
            );
        }
        if self.inputs.is_empty() {
            return refuse("inputs", "expected at least one input");
        }
        if self.window_elements() > WINDOW_ELEMENTS_MAX {
            let inputs = self.inputs.len();
            return refuse(
                "window.length",
                format!("{length} ticks of {inputs} inputs exceed {WINDOW_ELEMENTS_MAX} numbers"),
            );
        }
        Ok(())
    }

    fn check_outputs(&self) -> Result<(), ManifestError> {
        if self.outputs.is_empty() || self.outputs.len() > OUTPUTS_MAX {
            let found = self.outputs.len();
            return refuse(
                "outputs",
                format!("expected 1 to {OUTPUTS_MAX} outputs, found {found}"),
            );
        }
        for (index, output) in self.outputs.iter().enumerate() {
            let key = format!("outputs[{index}]");
            check_name(&format!("{key}.name"), &output.name)?;
            check_text(
                &format!("{key}.meaning"),
                &output.meaning,
                TEXT_CHARACTERS_MAX,
            )?;
            if let Some(threshold) = output.threshold {
                check_number(&format!("{key}.threshold"), threshold)?;
            }
            output.check_bounds(&key)?;
        }
        check_unique(
            "outputs",
            "name",
            self.outputs.iter().map(|output| &output.name),
        )?;
        if self.outputs[0].threshold.is_none() {
            return refuse(
                "outputs[0].threshold",
                "the first output is the score and needs one",
            );
        }
        Ok(())
    }
}

impl Input {
    fn check(&self, key: &str) -> Result<(), ManifestError> {
        check_name(&format!("{key}.quantity"), &self.quantity)?;
        check_text(&format!("{key}.unit"), &self.unit, NAME_CHARACTERS_MAX)?;
        check_number(&format!("{key}.range"), self.range[0])?;
        check_number(&format!("{key}.range"), self.range[1])?;
        if self.range[0] >= self.range[1] {
            let [low, high] = self.range;
            return refuse(
                format!("{key}.range"),
                format!("expected low below high, found [{low}, {high}]"),
            );
        }
        check_number(&format!("{key}.mean"), self.mean)?;
        check_number(&format!("{key}.scale"), self.scale)?;
        if self.scale <= 0.0 {
            let found = self.scale;
            return refuse(
                format!("{key}.scale"),
                format!("expected above 0, found {found}"),
            );
        }
        Ok(())
    }
}

impl Training {
    fn check(&self) -> Result<(), ManifestError> {
        check_text("training.script", &self.script, TEXT_CHARACTERS_MAX)?;
        check_text("training.data", &self.data, TEXT_CHARACTERS_MAX)?;
        let Figures {
            f1,
            false_alarms_percent,
            missed_percent,
        } = self.figures;
        check_between("training.figures.f1", f1, 1.0)?;
        check_between(
            "training.figures.false_alarms_percent",
            false_alarms_percent,
            100.0,
        )?;
        check_between("training.figures.missed_percent", missed_percent, 100.0)
    }
}

pub(super) fn check_name(key: &str, name: &str) -> Result<(), ManifestError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
        let found = shorten(name);
        return refuse(
            key,
            format!(
                "expected 1 to {NAME_CHARACTERS_MAX} lower-case letters, digits, `-` or `_`, found `{found}`"
            ),
        );
    }
    Ok(())
}

fn check_text(key: &str, text: &str, characters_max: usize) -> Result<(), ManifestError> {
    let characters = text.chars().count();
    if characters == 0 || characters > characters_max {
        return refuse(
            key,
            format!("expected 1 to {characters_max} characters, found {characters}"),
        );
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return refuse(key, "expected text without control characters");
    }
    Ok(())
}

pub(super) fn check_number(key: &str, number: f64) -> Result<(), ManifestError> {
    // The tensor holds f32: a number that f32 cannot hold would silently become infinite there.
    if number.is_finite() && number.abs() <= f64::from(f32::MAX) {
        return Ok(());
    }
    refuse(
        key,
        format!("expected a finite number that 32 bits can hold, found {number}"),
    )
}

fn check_between(key: &str, number: f64, high: f64) -> Result<(), ManifestError> {
    if (0.0..=high).contains(&number) {
        return Ok(());
    }
    refuse(key, format!("expected 0 to {high}, found {number}"))
}

fn check_unique<'a>(
    list: &str,
    key: &str,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), ManifestError> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            return refuse(
                format!("{list}[{index}].{key}"),
                format!("`{name}` stands there twice"),
            );
        }
    }
    Ok(())
}
