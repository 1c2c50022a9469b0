//! The window of a model: the last so many votes of its inputs, preprocessed, in the order that the tensor wants.
//!
//! Owns: the ring of rows and the worst quality among them. Must not: know models or quantities.

use alloc::{collections::VecDeque, vec::Vec};

use crate::vote::Quality;

/// A ring of rows.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    columns: usize,
    rows_max: usize,
    values: VecDeque<f32>,
    qualities: VecDeque<Quality>,
}

impl Window {
    pub(crate) fn new(rows_max: usize, columns: usize) -> Self {
        Self {
            columns,
            rows_max,
            values: VecDeque::with_capacity(rows_max * columns),
            qualities: VecDeque::with_capacity(rows_max),
        }
    }

    /// Adds the newest row and lets the oldest go when the window is full.
    pub(crate) fn push(&mut self, row: &[f32], quality: Quality) {
        assert_eq!(row.len(), self.columns, "a row has one value per input");
        if self.is_full() {
            self.values.drain(..self.columns);
            self.qualities.pop_front();
        }
        self.values.extend(row);
        self.qualities.push_back(quality);
    }

    /// Takes the newest rows of another window of the same inputs, as many as there is room for.
    pub(crate) fn adopt(&mut self, other: &Self) {
        assert_eq!(self.columns, other.columns, "the same inputs");
        self.clear();
        let skipped = other.qualities.len().saturating_sub(self.rows_max);
        let rows = other.qualities.iter().skip(skipped);
        self.qualities.extend(rows);
        let values = other.values.iter().skip(skipped * self.columns);
        self.values.extend(values);
    }

    /// Forgets everything: a gap in the inputs must not be bridged.
    pub(crate) fn clear(&mut self) {
        self.values.clear();
        self.qualities.clear();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.qualities.len() == self.rows_max
    }

    /// Row by row, oldest first.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.values.iter().copied().collect()
    }

    pub(crate) fn worst_quality(&self) -> Quality {
        self.qualities.iter().copied().max().unwrap_or(Quality::Bad)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::Window;
    use crate::vote::Quality;

    #[test]
    fn it_holds_the_newest_rows_in_order() {
        let mut window = Window::new(2, 2);
        window.push(&[1.0, 2.0], Quality::Uncertain);
        assert!(!window.is_full());
        window.push(&[3.0, 4.0], Quality::Good);
        assert_eq!(window.worst_quality(), Quality::Uncertain);
        window.push(&[5.0, 6.0], Quality::Degraded);
        assert_eq!(window.values(), vec![3.0, 4.0, 5.0, 6.0]);
        assert_eq!(window.worst_quality(), Quality::Degraded);
        let mut shorter = Window::new(1, 2);
        shorter.adopt(&window);
        assert_eq!(shorter.values(), vec![5.0, 6.0]);
        assert_eq!(shorter.worst_quality(), Quality::Degraded);
        let mut longer = Window::new(3, 2);
        longer.adopt(&window);
        assert_eq!(longer.values(), window.values());
        assert!(!longer.is_full());
        window.clear();
        assert!(!window.is_full());
    }
}
