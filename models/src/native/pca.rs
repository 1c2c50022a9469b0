//! T2 and SPE of a principal component analysis (Jackson and Mudholkar 1979).
//!
//! With z the standardised features and P the components: t = P z, T2 = sum of t_i^2 / variance_i, SPE = |z - P' t|^2. The
//! score is the larger of the two, each over its limit, so that 1 is the threshold.

use serde::Deserialize;

use super::{
    NativeError, check_format, check_numbers, check_outputs, check_positive, features::Features,
    narrow, refuse,
};
use crate::manifest::Manifest;

/// Most numbers of all components together.
const NUMBERS_MAX: usize = 4 * 1024 * 1024;

/// The file as serde reads it, format 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    format: u32,
    rows: Vec<[usize; 2]>,
    mean: Vec<f64>,
    scale: Vec<f64>,
    components: Vec<Vec<f64>>,
    variances: Vec<f64>,
    t2_limit: f64,
    spe_limit: f64,
}

#[derive(Debug, Clone)]
pub(crate) struct Pca {
    features: Features,
    mean: Vec<f64>,
    scale: Vec<f64>,
    components: Vec<Vec<f64>>,
    variances: Vec<f64>,
    t2_limit: f64,
    spe_limit: f64,
}

impl Pca {
    pub(super) fn check(file: File, manifest: &Manifest) -> Result<Pca, NativeError> {
        check_format(file.format)?;
        check_outputs(manifest, &["score", "t2", "spe"])?;
        let features = Features::check(file.rows, manifest)?;
        let count = features.count();
        check_numbers("mean", &file.mean, count)?;
        check_numbers("scale", &file.scale, count)?;
        check_positive("scale", &file.scale)?;
        let found = file.components.len();
        if found == 0 || found > count || found * count > NUMBERS_MAX {
            return refuse(
                "components",
                format!("expected 1 to {count} components, found {found}"),
            );
        }
        for (index, component) in file.components.iter().enumerate() {
            check_numbers(&format!("components[{index}]"), component, count)?;
        }
        check_numbers("variances", &file.variances, found)?;
        check_positive("variances", &file.variances)?;
        let limits = [file.t2_limit, file.spe_limit];
        check_numbers("limits", &limits, 2)?;
        check_positive("limits", &limits)?;
        Ok(Pca {
            features,
            mean: file.mean,
            scale: file.scale,
            components: file.components,
            variances: file.variances,
            t2_limit: file.t2_limit,
            spe_limit: file.spe_limit,
        })
    }

    pub(super) fn run(&self, window: &[f32]) -> Vec<f32> {
        let mut rest = self.features.of(window);
        for ((number, mean), scale) in rest.iter_mut().zip(&self.mean).zip(&self.scale) {
            *number = (*number - mean) / scale;
        }
        let along: Vec<f64> = self
            .components
            .iter()
            .map(|component| component.iter().zip(&rest).map(|(p, z)| p * z).sum())
            .collect();
        let t2: f64 = along
            .iter()
            .zip(&self.variances)
            .map(|(t, variance)| t * t / variance)
            .sum();
        for (component, t) in self.components.iter().zip(&along) {
            for (number, p) in rest.iter_mut().zip(component) {
                *number -= p * t;
            }
        }
        let spe: f64 = rest.iter().map(|number| number * number).sum();
        let score = (t2 / self.t2_limit).max(spe / self.spe_limit);
        // `max` would hide a NaN of one of them; each is looked at on its own by the runner.
        vec![narrow(score), narrow(t2), narrow(spe)]
    }
}
