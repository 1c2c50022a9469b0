//! The inputs of a model as a row of its tensor, and what stands in for one that has no value.
//!
//! Owns: the newest value of each input, and how long ago one was made up. Must not: judge the model.

use alloc::{vec, vec::Vec};

use super::{Impute, Missing};
use crate::{
    config::{ModelConfig, ModelInput},
    units::{Mono, QuantityId},
};

/// The inputs of one file.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    /// The newest value of each, and when it was voted.
    held: Vec<Option<(f64, Mono)>>,
    /// Rows until the last one that was made up has left the window, for each.
    imputed_left: Vec<usize>,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) values: Vec<f32>,
    /// Something in it was made up.
    pub(crate) imputed: bool,
}

impl Inputs {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            held: vec![None; count],
            imputed_left: vec![0; count],
        }
    }

    /// The row of a tick, preprocessed; `None` where an input has no value and nothing stands in for it.
    pub(crate) fn row(
        &mut self,
        config: &ModelConfig,
        tick: Mono,
        votes: &[Option<f64>],
    ) -> Option<Row> {
        let mut values = Vec::with_capacity(config.inputs.len());
        let mut imputed = false;
        let mut whole = true;
        for (index, (input, vote)) in config.inputs.iter().zip(votes).enumerate() {
            let own = vote.filter(|value| within(input, *value));
            let left = &mut self.imputed_left[index];
            *left = left.saturating_sub(1);
            let taken = match own {
                Some(value) => {
                    self.held[index] = Some((value, tick));
                    Some(value)
                }
                None => {
                    let made_up = (config.missing == Missing::Impute)
                        .then(|| stand_in(input, self.held[index], tick))
                        .flatten();
                    if made_up.is_some() {
                        imputed = true;
                        *left = config.window;
                    }
                    made_up
                }
            };
            match taken {
                Some(value) => values.push(narrow((value - input.mean) / input.scale)),
                None => whole = false,
            }
        }
        if whole {
            return Some(Row { values, imputed });
        }
        // The window starts anew, and nothing in it is made up.
        self.imputed_left.fill(0);
        None
    }

    /// The inputs of which something in the window was made up.
    pub(crate) fn imputed(&self, config: &ModelConfig) -> Vec<QuantityId> {
        let inputs = config.inputs.iter().zip(&self.imputed_left);
        inputs
            .filter(|(_, left)| **left > 0)
            .map(|(input, _)| input.quantity)
            .collect()
    }
}

fn within(input: &ModelInput, value: f64) -> bool {
    value.is_finite()
        && input
            .range
            .is_none_or(|(low, high)| value >= low && value <= high)
}

fn stand_in(input: &ModelInput, held: Option<(f64, Mono)>, tick: Mono) -> Option<f64> {
    match input.impute? {
        Impute::Value(value) => Some(value),
        Impute::Hold { ms } => held
            .filter(|(_, at)| tick.since_ms(*at) <= ms)
            .map(|(value, _)| value),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a tensor of f32 is what the model takes; the nearest is meant"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn config(missing: Missing, impute: Option<Impute>) -> ModelConfig {
        let input = |index, impute| ModelInput {
            quantity: QuantityId(index),
            mean: 10.0,
            scale: 2.0,
            range: Some((0.0, 100.0)),
            impute,
        };
        ModelConfig {
            window: 3,
            inputs: vec![input(0, impute), input(1, None)],
            missing,
            ..ModelConfig::default()
        }
    }

    fn values(row: Option<Row>) -> Option<(Vec<f32>, bool)> {
        row.map(|row| (row.values, row.imputed))
    }

    #[test]
    fn a_value_is_held_for_its_time_and_marked_while_it_is_in_the_window() {
        let config = config(Missing::Impute, Some(Impute::Hold { ms: 2_000 }));
        let mut inputs = Inputs::new(2);
        let mut row = |at, first, second| {
            let row = inputs.row(&config, Mono(at), &[first, second]);
            (values(row), inputs.imputed(&config))
        };
        let none = (None, vec![]);
        assert_eq!(row(0, None, Some(10.0)), none, "nothing to hold yet");
        let (first, imputed) = row(1_000, Some(12.0), Some(10.0));
        assert_eq!(first, Some((vec![1.0, 0.0], false)));
        assert_eq!(imputed, vec![]);
        for at in [2_000, 3_000] {
            let (held, imputed) = row(at, None, Some(10.0));
            assert_eq!(held, Some((vec![1.0, 0.0], true)));
            assert_eq!(imputed, vec![QuantityId(0)]);
        }
        assert_eq!(row(4_000, None, Some(10.0)), none, "held too long");
        // Outside its range is as good as missing.
        row(5_000, Some(14.0), Some(10.0));
        let (held, _) = row(6_000, Some(101.0), Some(10.0));
        assert_eq!(held, Some((vec![2.0, 0.0], true)));
        // The row that was made up leaves a window of three with the third row after it.
        for left in [true, true, false] {
            let (_, imputed) = row(7_000, Some(10.0), Some(10.0));
            assert_eq!(!imputed.is_empty(), left);
        }
        assert_eq!(
            row(8_000, Some(10.0), None),
            none,
            "an input without a rule"
        );
    }

    #[test]
    fn a_constant_stands_in_only_where_the_manifest_asks_for_it() {
        let constant = Some(Impute::Value(16.0));
        let mut inputs = Inputs::new(2);
        let asked = config(Missing::Impute, constant);
        let row = inputs.row(&asked, Mono(0), &[None, Some(10.0)]);
        assert_eq!(values(row), Some((vec![3.0, 0.0], true)));
        let not_asked = config(Missing::Abstain, constant);
        assert_eq!(inputs.row(&not_asked, Mono(0), &[None, Some(10.0)]), None);
    }
}
