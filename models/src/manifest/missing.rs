//! What a model does without all of its inputs, and where its outputs lie.
//!
//! Owns: the manifest's keys `missing`, `impute`, `hysteresis` and `range` of outputs, and their rules. Pure.

use super::{Input, Manifest, ManifestError, Output, check, file, refuse};

/// Longest time that a value may be held: one day.
const HOLD_S_MAX: f64 = 86_400.0;

/// What a model does without all of its inputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Missing {
    /// It gives no answer.
    #[default]
    Abstain,
    /// The inputs' own rules say what stands in for them; one without a rule makes it abstain.
    Impute,
    /// Another model of the device answers meanwhile.
    Fallback {
        /// Its id in the configuration of the device.
        model: String,
    },
}

/// What stands in for an input that has no value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Impute {
    /// Its last value.
    Hold {
        /// For at most so many seconds, above 0, at most a day.
        hold_s: f64,
    },
    /// Its mean in the training data.
    Mean,
    /// This, in its unit, within its range.
    Value(f64),
}

impl From<file::Missing> for Missing {
    fn from(file: file::Missing) -> Self {
        match file {
            file::Missing::Abstain {} => Self::Abstain,
            file::Missing::Impute {} => Self::Impute,
            file::Missing::Fallback { model } => Self::Fallback { model },
        }
    }
}

impl From<file::Impute> for Impute {
    fn from(file: file::Impute) -> Self {
        match file {
            file::Impute::Hold { hold_s } => Self::Hold { hold_s },
            file::Impute::Mean {} => Self::Mean,
            file::Impute::Value { value } => Self::Value(value),
        }
    }
}

impl Manifest {
    pub(super) fn check_missing(&self) -> Result<(), ManifestError> {
        if let Missing::Fallback { model } = &self.missing {
            let allowed = |c: char| c.is_alphanumeric() || "-_.:".contains(c);
            if model.is_empty() || model.len() > 128 || !model.chars().all(allowed) {
                return refuse("missing.model", "expected the id of a model of the device");
            }
        }
        let imputes = self.missing == Missing::Impute;
        for (index, input) in self.inputs.iter().enumerate() {
            let key = format!("inputs[{index}].impute");
            match input.impute {
                None => {}
                Some(_) if !imputes => {
                    return refuse(key, "expected only with `missing.rule = \"impute\"`");
                }
                Some(impute) => impute.check(&key, input)?,
            }
        }
        if imputes && self.inputs.iter().all(|input| input.impute.is_none()) {
            return refuse(
                "missing.rule",
                "`impute` needs an input with the key `impute`",
            );
        }
        Ok(())
    }
}

impl Impute {
    fn check(self, key: &str, input: &Input) -> Result<(), ManifestError> {
        match self {
            Self::Hold { hold_s } if !(hold_s > 0.0 && hold_s <= HOLD_S_MAX) => refuse(
                format!("{key}.hold_s"),
                format!("expected above 0 and at most {HOLD_S_MAX}, found {hold_s}"),
            ),
            Self::Value(value) if !(input.range[0]..=input.range[1]).contains(&value) => refuse(
                format!("{key}.value"),
                format!("expected a value within the range of the input, found {value}"),
            ),
            _ => Ok(()),
        }
    }
}

impl Output {
    pub(super) fn check_bounds(&self, key: &str) -> Result<(), ManifestError> {
        let hysteresis = self.hysteresis;
        check::check_number(&format!("{key}.hysteresis"), hysteresis)?;
        if hysteresis < 0.0 || (hysteresis > 0.0 && self.threshold.is_none()) {
            return refuse(
                format!("{key}.hysteresis"),
                format!("expected 0 or more, with a threshold, found {hysteresis}"),
            );
        }
        let Some([low, high]) = self.range else {
            return Ok(());
        };
        for end in [low, high] {
            check::check_number(&format!("{key}.range"), end)?;
        }
        if low >= high {
            return refuse(
                format!("{key}.range"),
                format!("expected low below high, found [{low}, {high}]"),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::testing::Parts;

    /// The manifest that ships, with `from` replaced.
    fn changed(changes: &[(&str, &str)]) -> Result<Manifest, ManifestError> {
        let mut text = Parts::shipped().manifest;
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        Manifest::parse(&text)
    }

    fn refused(changes: &[(&str, &str)]) -> String {
        match changed(changes) {
            Err(ManifestError::Value { key, .. }) => key,
            Err(ManifestError::Syntax { .. }) => "syntax".into(),
            other => format!("{other:?}"),
        }
    }

    const RULE: (&str, &str) = ("[training]", "[missing]\nrule = \"impute\"\n[training]");

    #[test]
    fn each_rule_is_read() {
        assert_eq!(changed(&[]).unwrap().missing, Missing::Abstain);
        let other = "[missing]\nrule = \"fallback\"\nmodel = \"bearing-t2\"\n[training]";
        let fallback = changed(&[("[training]", other)]).unwrap();
        let model = "bearing-t2".to_owned();
        assert_eq!(fallback.missing, Missing::Fallback { model });
        let imputing = changed(&[
            RULE,
            (
                "mean = 35.2887",
                "mean = 35.2887\nimpute = { rule = \"hold\", hold_s = 30.0 }",
            ),
            (
                "mean = 1.6391",
                "mean = 1.6391\nimpute = { rule = \"mean\" }",
            ),
            (
                "mean = 10.0466",
                "mean = 10.0466\nimpute = { rule = \"value\", value = 9.5 }",
            ),
            (
                "threshold = 20.17",
                "threshold = 20.17\nhysteresis = 2.0\nrange = [0.0, 1000000.0]",
            ),
        ])
        .unwrap();
        let rules: Vec<_> = imputing.inputs.iter().map(|input| input.impute).collect();
        let hold = Impute::Hold { hold_s: 30.0 };
        assert_eq!(
            rules,
            [Some(hold), Some(Impute::Mean), Some(Impute::Value(9.5))]
        );
        let score = &imputing.outputs[0];
        assert_eq!((score.hysteresis, score.range), (2.0, Some([0.0, 1e6])));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_key() {
        let impute = |rule: &'static str| [RULE, ("mean = 35.2887", rule)];
        assert_eq!(refused(&[RULE]), "missing.rule");
        let without = (
            "mean = 35.2887",
            "mean = 35.2887\nimpute = { rule = \"mean\" }",
        );
        assert_eq!(refused(&[without]), "inputs[0].impute");
        let far = "mean = 35.2887\nimpute = { rule = \"value\", value = 126.0 }";
        assert_eq!(refused(&impute(far)), "inputs[0].impute.value");
        let long = "mean = 35.2887\nimpute = { rule = \"hold\", hold_s = 86401.0 }";
        assert_eq!(refused(&impute(long)), "inputs[0].impute.hold_s");
        let unknown = "mean = 35.2887\nimpute = { rule = \"mean\", hold_s = 1.0 }";
        assert_eq!(refused(&impute(unknown)), "syntax");
        let nobody = "[missing]\nrule = \"fallback\"\nmodel = \"\"\n[training]";
        assert_eq!(refused(&[("[training]", nobody)]), "missing.model");
        let bound = |text: &'static str| [("threshold = 20.17", text)];
        assert_eq!(
            refused(&bound("threshold = 20.17\nhysteresis = -1.0")),
            "outputs[0].hysteresis"
        );
        assert_eq!(
            refused(&bound("threshold = 20.17\nrange = [1.0, 1.0]")),
            "outputs[0].range"
        );
    }
}
