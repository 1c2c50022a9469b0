//! The way back: readmission of isolated channels, and the new vote against a lone survivor.
//!
//! Owns: probation. Must not: readmit a channel while it is unclear who is healthy.

use super::Reason;
use super::channel::{Channel, Standing};
use super::statistics::{beyond, root, square};
use super::voter::{Tick, Voter};

/// A sample within this many standard deviations is clean (prototype).
const CLEAN_DEVIATIONS: f64 = 4.0;
/// The mean deviation of the clean samples must be within this (prototype).
const CLEAN_MEAN_MAX: f64 = 1.75;
/// The reference's own variance, as a share of a channel's variance per channel in it (prototype).
const REFERENCE_VARIANCE_SHARE: f64 = 0.7;
/// Isolated channels agree when within this many standard deviations of their median (prototype).
const AGREEING_DEVIATIONS: f64 = 3.0;
/// Probation times for which isolated channels must agree before a new vote (prototype).
const AGREEING_PROBATIONS: u32 = 2;

impl Voter {
    /// Follows the isolated channels and readmits those that have agreed for long enough.
    pub(super) fn readmit(&mut self, tick: &Tick) {
        if tick.warming || tick.lost || self.pair.split {
            return;
        }
        let trusted = self
            .channels
            .iter()
            .filter(|channel| channel.candidate && channel.standing == Standing::Trusted);
        let (sum, count) = trusted.fold((0.0, 0_u32), |(sum, count), channel| {
            (sum + channel.corrected, count + 1)
        });
        if count > 0 {
            let reference = if count < 3 {
                sum / f64::from(count)
            } else {
                tick.reference
            };
            // A pair cannot put a relapse right at once: the wait for it is half as long again.
            let clear_count = if count == 1 {
                self.config.clear_count.saturating_mul(3) / 2
            } else {
                self.config.clear_count
            };
            let reference_share = REFERENCE_VARIANCE_SHARE / f64::from(count);
            for channel in &mut self.channels {
                if channel.standing == Standing::Isolated && channel.fresh {
                    channel.serve(reference, reference_share, clear_count);
                }
            }
        }
        if count <= 1 {
            self.vote_anew();
        } else {
            self.isolated_agreeing = 0;
        }
    }

    /// Two or more isolated channels that agree with one another outvote a lone survivor, or none.
    fn vote_anew(&mut self) {
        let waiting = self
            .channels
            .iter()
            .filter(|channel| channel.standing == Standing::Isolated && channel.usable);
        self.sorted.refill(waiting.map(|channel| channel.corrected));
        if self.sorted.len() < 2 {
            return;
        }
        let middle = self.sorted.median();
        let agrees = |channel: &Channel| {
            channel.standing == Standing::Isolated
                && channel.usable
                && !beyond(
                    channel.corrected - middle,
                    AGREEING_DEVIATIONS,
                    channel.variance,
                )
        };
        let agreeing = self
            .channels
            .iter()
            .filter(|channel| agrees(channel) && channel.motion.moves())
            .count();
        self.isolated_agreeing = if agreeing >= 2 {
            self.isolated_agreeing + 1
        } else {
            0
        };
        if self.isolated_agreeing < self.config.clear_count.saturating_mul(AGREEING_PROBATIONS) {
            return;
        }
        self.isolated_agreeing = 0;
        for channel in &mut self.channels {
            if agrees(channel) {
                channel.readmit(0.0);
                channel.relapses = 0;
            }
        }
    }
}

impl Channel {
    /// One fresh sample of an isolated channel.
    fn serve(&mut self, reference: f64, reference_share: f64, clear_count: u32) {
        let residual = self.corrected - reference;
        let variance = self.variance * (1.0 + reference_share);
        if beyond(residual, CLEAN_DEVIATIONS, variance) || !self.motion.moves() {
            self.clean = 0;
            self.clean_sum = 0.0;
            return;
        }
        self.clean = self.clean.saturating_add(1);
        self.clean_sum += residual / root(variance);
        self.gross_score = (self.gross_score - 0.5).max(0.0);
        if self.clean < self.probation_length(clear_count) {
            return;
        }
        let mean = self.clean_sum / f64::from(self.clean);
        let loose = self.reason != Some(Reason::Stuck) || self.motion.came_loose();
        if square(mean) < square(CLEAN_MEAN_MAX) && loose {
            self.readmit(mean * root(self.variance));
            self.candidate = true;
        }
    }
}
