//! How inputs and outputs are distributed where all is well: what the drift monitors compare with.
//!
//! Pure. Invariant: a [`Reference`] of a manifest is finite, its deviation is above 0, its quantiles do not fall.

use super::{Input, ManifestError, Output, file, refuse};

/// The shares of which a [`Reference`] has the quantiles.
pub const QUANTILES: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

/// The distribution of one input or output on data that was held out from training.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Reference {
    /// Its mean, in its unit.
    pub mean: f64,
    /// Its standard deviation, in its unit, above 0.
    pub deviation: f64,
    /// Its quantiles at [`QUANTILES`].
    pub quantiles: [f64; QUANTILES.len()],
}

/// Gives each input and output its reference.
pub(super) fn assign(
    drift: file::Drift,
    inputs: &mut [Input],
    outputs: &mut [Output],
) -> Result<(), ManifestError> {
    for (index, entry) in drift.inputs.into_iter().enumerate() {
        let key = format!("drift.inputs[{index}]");
        let reference = reference(&key, entry.mean, entry.deviation, &entry.quantiles)?;
        let mut of_name = inputs.iter_mut().filter(|it| it.quantity == entry.quantity);
        match of_name.next() {
            Some(input) if input.drift.is_none() => input.drift = Some(reference),
            Some(_) => return refuse(key, "this input has a reference already"),
            None => return refuse(key, "no input has this quantity"),
        }
    }
    for (index, entry) in drift.outputs.into_iter().enumerate() {
        let key = format!("drift.outputs[{index}]");
        let reference = reference(&key, entry.mean, entry.deviation, &entry.quantiles)?;
        let mut of_name = outputs.iter_mut().filter(|it| it.name == entry.name);
        match of_name.next() {
            Some(output) if output.drift.is_none() => output.drift = Some(reference),
            Some(_) => return refuse(key, "this output has a reference already"),
            None => return refuse(key, "no output has this name"),
        }
    }
    Ok(())
}

fn reference(
    key: &str,
    mean: f64,
    deviation: f64,
    quantiles: &[f64],
) -> Result<Reference, ManifestError> {
    let Ok(quantiles) = <[f64; QUANTILES.len()]>::try_from(quantiles) else {
        let (expected, found) = (QUANTILES.len(), quantiles.len());
        return refuse(
            format!("{key}.quantiles"),
            format!("expected {expected} numbers, found {found}"),
        );
    };
    let is_finite = quantiles.iter().all(|quantile| quantile.is_finite());
    if !is_finite || quantiles.windows(2).any(|pair| pair[0] > pair[1]) {
        return refuse(
            format!("{key}.quantiles"),
            "expected finite numbers that do not fall",
        );
    }
    if !mean.is_finite() {
        return refuse(format!("{key}.mean"), "expected a finite number");
    }
    if !deviation.is_finite() || deviation <= 0.0 {
        return refuse(
            format!("{key}.deviation"),
            format!("expected above 0, found {deviation}"),
        );
    }
    Ok(Reference {
        mean,
        deviation,
        quantiles,
    })
}
