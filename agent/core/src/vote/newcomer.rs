//! Newcomers, and the second look at an offset that the evidence does not bear out any more.
//!
//! Owns: how one channel is learned against the others while it is outside the vote.
//! Must not: let a channel in that was not steady, or is further off than may be learned.

use super::Reason;
use super::channel::{Channel, Standing};
use super::commission::{LOOK_COUNT, WANDER_START_SHARE};
use super::look::Look;
use super::pair::Pair;
use super::statistics::root;
use super::voter::{Tick, Voter};

/// Looks at one channel after which one that never was steady is a fault.
const LOOKS_MAX: u32 = 8;
/// An isolated channel that is steady this much nearer to its siblings than its offset says is learned anew.
const NEARER_SHARE: f64 = 0.5;

impl Voter {
    /// Forgets everything of one channel, its being out included: it is learned against the others, outside the vote,
    /// as one that arrives later is; during the first phase of commissioning, with them. Nothing where there is no such
    /// channel.
    pub fn forget(&mut self, channel: usize) {
        let Some(forgotten) = self.channels.get_mut(channel) else {
            return;
        };
        *forgotten = Channel::new();
        if !self.commission.warming() {
            forgotten.standing = Standing::Newcomer;
        }
        forgotten.begin_look();
        self.pair = Pair::new();
    }

    /// Channels that arrived later, or were not steady, are learned against those that are there, outside the vote.
    pub(super) fn commission_newcomers(&mut self, tick: &Tick) {
        if tick.last_resort {
            for channel in &mut self.channels {
                // Nobody to be learned against: the first comer starts the vote.
                if channel.standing == Standing::Newcomer && channel.usable {
                    channel.standing = Standing::Trusted;
                }
            }
            return;
        }
        let mut arrived = false;
        for index in 0..self.channels.len() {
            let channel = &mut self.channels[index];
            if channel.standing != Standing::Newcomer || !channel.fresh {
                continue;
            }
            let looked = &mut self.commission.looked[index];
            channel.look(channel.residual, looked);
            if channel.looked < LOOK_COUNT {
                continue;
            }
            arrived = true;
            let look = Look::at(
                &mut self.commission.scratch,
                looked,
                channel.looked,
                tick.accuracy,
            );
            let limits = (self.commission.offset_max, self.commission.noise_max);
            channel.receive(look, limits, tick);
        }
        if arrived && self.commission.doubt && self.commission.learned < 3 {
            self.commission_anew();
        }
    }

    /// An isolated channel that is steady, and nearer to its siblings than the offset learned of it says, was learned
    /// while it was wrong: its offset is learned anew.
    pub(super) fn look_again(&mut self, tick: &Tick) {
        let mut forgotten = false;
        let offset_max = self.commission.offset_max;
        for index in 0..self.channels.len() {
            let channel = &mut self.channels[index];
            if channel.standing != Standing::Isolated || !channel.fresh {
                continue;
            }
            let looked = &mut self.commission.looked[index];
            channel.look(channel.residual, looked);
            if channel.looked < LOOK_COUNT {
                continue;
            }
            let look = Look::at(
                &mut self.commission.scratch,
                looked,
                channel.looked,
                tick.accuracy,
            );
            channel.begin_look();
            let offset = channel.offset + look.offset;
            let learned = channel.offset.abs() > 2.0 * root(channel.noise);
            let nearer = learned && offset.abs() < NEARER_SHARE * channel.offset.abs();
            // Still commissioning, and no accuracy says what is too much: the same as at start.
            let early = tick.commissioning && tick.accuracy == 0.0 && offset.abs() <= offset_max;
            if (nearer || early)
                && look.steady
                && channel.motion.moves()
                && look.noise < 4.0 * channel.noise.max(tick.variance_floor)
            {
                channel.offset = offset;
                channel.corrected -= look.offset;
                channel.readmit(0.0);
                forgotten = true;
            }
        }
        if forgotten {
            self.centre_offsets(tick.typical_variance);
        }
    }
}

impl Channel {
    /// Ends the look at a newcomer.
    fn receive(&mut self, look: Look, (offset_max, noise_max): (f64, f64), tick: &Tick) {
        self.begin_look();
        self.relooks = self.relooks.saturating_add(1);
        if look.offset.abs() > offset_max {
            self.standing = Standing::Isolated;
            self.reason = Some(Reason::BootOffset);
        } else if look.noise <= noise_max
            && (look.steady || (tick.accuracy == 0.0 && self.relooks >= LOOKS_MAX))
        {
            self.offset += look.offset;
            self.noise = look.noise;
            self.wander = self.wander.max(WANDER_START_SHARE * self.noise);
            self.samples = LOOK_COUNT;
            self.readmit(0.0);
        } else if self.relooks >= LOOKS_MAX {
            self.standing = Standing::Isolated;
            self.reason = Some(Reason::Noisy);
        }
    }
}
