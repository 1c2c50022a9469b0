//! What other systems call a quality and a channel's state: NAMUR NE 107 and OPC UA.
//!
//! Owns: the two tables. Must not: decide a state.
//!
//! NE 107 (2012) knows failure, function check, out of specification and maintenance required. The OPC UA codes are
//! those of OPC 10000-8 (Data Access), table "Operation level result codes", and of OPC 10000-4, annex A.

use super::{ChannelState, Quality, Reason, Verdict};

/// The NE 107 status signal of a channel; none is a device in order.
#[must_use]
pub const fn ne107(verdict: Verdict) -> Option<&'static str> {
    match (verdict.state, verdict.reason) {
        (ChannelState::Healthy, _) => None,
        (ChannelState::Learning | ChannelState::Probation, _) => Some("function-check"),
        (ChannelState::Failed, _) => Some("failure"),
        (_, Some(reason)) if is_failure(reason) => Some("failure"),
        (ChannelState::Suspect | ChannelState::Quarantined, _) => Some("out-of-specification"),
    }
}

/// Whether a reason means that there is no signal, as opposed to a doubtful one.
const fn is_failure(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoData
            | Reason::Timeout
            | Reason::SensorError
            | Reason::Stuck
            | Reason::OutOfRange
            | Reason::NotANumber
    )
}

/// The NE 107 status signal of a voted value: a lost redundancy asks for maintenance while the value holds.
#[must_use]
pub const fn ne107_of_value(quality: Quality) -> Option<&'static str> {
    match quality {
        Quality::Good => None,
        Quality::Degraded => Some("maintenance-required"),
        Quality::Uncertain => Some("out-of-specification"),
        Quality::Bad => Some("failure"),
    }
}

/// `Good`: all that was expected, or the quorum, bears the value.
const GOOD: u32 = 0x0000_0000;
/// `Uncertain_LastUsableValue`: whatever was updating this value has stopped doing so.
const UNCERTAIN_LAST_USABLE_VALUE: u32 = 0x4090_0000;
/// `Uncertain_SubNormal`: made from multiple sources of which fewer than required are good.
const UNCERTAIN_SUB_NORMAL: u32 = 0x4095_0000;
/// `Bad_SensorFailure`: there has been a failure in the sensor from which the value is derived.
const BAD_SENSOR_FAILURE: u32 = 0x808C_0000;

/// The OPC UA status code of a voted value; `held` says that no channel bears it now.
#[must_use]
pub const fn opc_ua(quality: Quality, held: bool) -> u32 {
    match quality {
        Quality::Good | Quality::Degraded => GOOD,
        Quality::Uncertain if held => UNCERTAIN_LAST_USABLE_VALUE,
        Quality::Uncertain => UNCERTAIN_SUB_NORMAL,
        Quality::Bad => BAD_SENSOR_FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::{ne107, ne107_of_value, opc_ua};
    use crate::vote::{ChannelState, Quality, Reason, Verdict};

    #[test]
    fn states_have_their_signals() {
        let signal = |state, reason| {
            ne107(Verdict {
                included: false,
                state,
                reason,
            })
        };
        let quarantined = |reason| signal(ChannelState::Quarantined, Some(reason));
        assert_eq!(quarantined(Reason::Stuck), Some("failure"));
        assert_eq!(quarantined(Reason::Drift), Some("out-of-specification"));
        assert_eq!(signal(ChannelState::Healthy, None), None);
        assert_eq!(
            signal(ChannelState::Probation, Some(Reason::Stuck)),
            Some("function-check")
        );
        assert_eq!(
            ne107_of_value(Quality::Degraded),
            Some("maintenance-required")
        );
        assert_eq!(opc_ua(Quality::Uncertain, true), 0x4090_0000);
        assert_eq!(opc_ua(Quality::Uncertain, false), 0x4095_0000);
        assert_eq!(opc_ua(Quality::Bad, false) >> 30, 2);
    }
}
