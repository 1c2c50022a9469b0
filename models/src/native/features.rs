//! Features of a window: the means of its inputs over ranges of rows.
//!
//! `rows = [[0, 0]]` is the newest row, `[[0, 0], [1, 1]]` two lagged rows, `[[0, 29], [30, 59]]` the halves of 60: rows are
//! counted from the newest, both ends of a range belong to it. The order is range by range, each with all inputs.

use super::{NativeError, refuse};
use crate::manifest::Manifest;

/// Most ranges of rows.
const RANGES_MAX: usize = 64;

/// Which rows of the window make the features.
#[derive(Debug, Clone)]
pub(super) struct Features {
    ranges: Vec<[usize; 2]>,
    length: usize,
    inputs: usize,
}

impl Features {
    pub(super) fn check(
        rows: Vec<[usize; 2]>,
        manifest: &Manifest,
    ) -> Result<Features, NativeError> {
        let inputs = manifest.inputs.len();
        let length = manifest.window_elements() / inputs;
        if rows.is_empty() || rows.len() > RANGES_MAX {
            let found = rows.len();
            return refuse(
                "rows",
                format!("expected 1 to {RANGES_MAX} ranges, found {found}"),
            );
        }
        let is_wrong = |[newest, oldest]: &[usize; 2]| newest > oldest || *oldest >= length;
        if let Some(index) = rows.iter().position(is_wrong) {
            let [newest, oldest] = rows[index];
            return refuse(
                format!("rows[{index}]"),
                format!(
                    "expected two rows of 0 to {}, the newer first, found [{newest}, {oldest}]",
                    length - 1
                ),
            );
        }
        Ok(Features {
            ranges: rows,
            length,
            inputs,
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ranges.len() * self.inputs
    }

    /// Of a window, row by row, oldest first.
    pub(super) fn of(&self, window: &[f32]) -> Vec<f64> {
        let mut features = vec![0.0; self.count()];
        for (range, part) in self
            .ranges
            .iter()
            .zip(features.chunks_exact_mut(self.inputs))
        {
            let [newest, oldest] = *range;
            let (first, end) = (self.length - 1 - oldest, self.length - newest);
            let rows = window[first * self.inputs..end * self.inputs].chunks_exact(self.inputs);
            for row in rows {
                for (sum, number) in part.iter_mut().zip(row) {
                    *sum += f64::from(*number);
                }
            }
            let count = f64::from(u32::try_from(end - first).unwrap_or(u32::MAX));
            part.iter_mut().for_each(|sum| *sum /= count);
        }
        features
    }
}
