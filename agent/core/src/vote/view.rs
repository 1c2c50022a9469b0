//! What the voter holds of one channel, for a person to read.
//!
//! Owns: [`ChannelView`]. Must not: change anything.

use super::Voter;
use super::statistics::root;

/// Samples for which a wander is taken to last: the memory of the slow mean, four times over.
const WANDER_LASTS_SAMPLES: f64 = 256.0;

/// One channel as the last vote left it; all values in the quantity's unit unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelView {
    /// Learned lasting difference from the siblings; taken off before the vote.
    pub offset: f64,
    /// Standard uncertainty of the offset, from the noise and wander seen in `samples`.
    pub offset_uncertainty: f64,
    /// Learned standard deviation from sample to sample.
    pub noise: f64,
    /// Learned standard deviation of the slow part of the difference.
    pub wander: f64,
    /// The last sample, less the offset, less the reference of the vote.
    pub residual: f64,
    /// Mean of the residual over the last 64 samples or so.
    pub residual_slow: f64,
    /// Share of the value, 0 to 1.
    pub weight: f64,
    /// Evidence of a lasting difference, in standard deviations summed; 1.6 for each of `fail_count` isolates.
    pub evidence: f64,
    /// Samples learned from.
    pub samples: u32,
    /// Relapses that lengthen the way back.
    pub relapses: u32,
    /// Clean samples so far on the way back.
    pub clean: u32,
}

impl Voter {
    /// What is held of a channel after the last vote; none for a channel that does not exist.
    #[must_use]
    pub fn explain(&self, channel: usize) -> Option<ChannelView> {
        let total: f64 = self.channels.iter().map(|channel| channel.weight).sum();
        let channel = self.channels.get(channel)?;
        let samples = f64::from(channel.samples.max(1));
        let wanders = (samples / WANDER_LASTS_SAMPLES).max(1.0);
        Some(ChannelView {
            offset: channel.offset,
            offset_uncertainty: root(channel.noise / samples + channel.wander / wanders),
            noise: root(channel.noise),
            wander: root(channel.wander),
            residual: channel.residual,
            residual_slow: channel.slow,
            weight: if total > 0.0 {
                channel.weight / total
            } else {
                0.0
            },
            evidence: channel.above.max(channel.below),
            samples: channel.samples,
            relapses: channel.relapses,
            clean: channel.clean,
        })
    }
}
