//! Why the last vote is what it is: the numbers behind it, channel by channel.
//!
//! Owns: the view. Must not: compute anything that the vote did not.

use alloc::vec::Vec;

use super::Voter;
use super::channel::Channel;
use super::statistics::root;

/// Samples for which a wander is taken to last: the memory of the slow mean, four times over.
const WANDER_LASTS_SAMPLES: f64 = 256.0;

/// The numbers of one channel at the last vote, in the unit of the quantity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChannelView {
    /// The newest value; absent where nothing could be used.
    pub value: Option<f64>,
    /// The value arrived with this tick.
    pub fresh: bool,
    /// What was learned to lie between it and its siblings.
    pub offset: f64,
    /// Standard uncertainty of the offset, from the noise and wander that were seen.
    pub offset_uncertainty: f64,
    /// The value less its offset and less the reference; absent with the value.
    pub residual: Option<f64>,
    /// Standard deviation that the residual is held against.
    pub deviation: f64,
    /// Learned standard deviation from sample to sample.
    pub noise: f64,
    /// Learned standard deviation of the slow part of the residual.
    pub wander: f64,
    /// Its share of the weight, 0 to 1.
    pub share: f64,
    /// Evidence of a lasting difference, in standard deviations.
    pub evidence: f64,
    /// Samples that it was learned from.
    pub samples: u32,
}

/// The numbers of the last vote that are no channel's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoteView {
    /// Median of the trusted channels, offsets removed; absent where nothing could be used.
    pub reference: Option<f64>,
    /// The channels are still being commissioned.
    pub commissioning: bool,
    /// Nobody bears out the offsets that the vote rests on.
    pub doubt: bool,
    /// Two channels disagree and neither can be blamed.
    pub split: bool,
}

impl Voter {
    /// The numbers behind the last vote: of the whole, and of each channel in order.
    #[must_use]
    pub fn explain(&self) -> (VoteView, Vec<ChannelView>) {
        let total: f64 = self.channels.iter().map(|channel| channel.weight).sum();
        let uncertainty = |channel: &Channel| {
            let samples = f64::from(channel.samples.max(1));
            let wanders = (samples / WANDER_LASTS_SAMPLES).max(1.0);
            root(channel.noise / samples + channel.wander / wanders)
        };
        let channels = self.channels.iter().map(|channel| ChannelView {
            offset_uncertainty: uncertainty(channel),
            value: channel.usable.then_some(channel.raw),
            fresh: channel.fresh,
            offset: channel.offset,
            residual: channel.usable.then_some(channel.residual),
            deviation: root(channel.variance_now),
            noise: root(channel.noise),
            wander: root(channel.wander),
            share: if total > 0.0 {
                channel.weight / total
            } else {
                0.0
            },
            evidence: channel.above.max(channel.below),
            samples: channel.samples,
        });
        (self.explain_whole(), channels.collect())
    }

    fn explain_whole(&self) -> VoteView {
        let usable = self.channels.iter().find(|channel| channel.usable);
        VoteView {
            reference: usable.map(|channel| channel.corrected - channel.residual),
            commissioning: self.commission.warming(),
            doubt: self.commission.doubt,
            split: self.pair.split,
        }
    }
}
