//! Devices with several axes: an axis that cannot be believed takes the others of its device with it.
//!
//! Owns: which sensors share a device, and how many of them are isolated. Must not: judge an axis.

use alloc::{string::String, vec::Vec};

use crate::{config::SensorConfig, units::SensorId, vote::ChannelState};

/// Where a sensor stands.
#[derive(Clone, Copy, Debug)]
struct Axis {
    device: usize,
    /// Quantities in which it is isolated.
    isolated: u32,
}

/// The devices behind the sensors.
#[derive(Clone, Debug)]
pub(crate) struct Devices {
    axes: Vec<Option<Axis>>,
    /// Isolated axes of each device.
    isolated: Vec<u32>,
}

impl Devices {
    pub(crate) fn new(sensors: &[SensorConfig]) -> Self {
        let mut names: Vec<&String> = Vec::new();
        let mut axes = Vec::with_capacity(sensors.len());
        for sensor in sensors {
            axes.push(sensor.device.as_ref().map(|name| {
                let known = names.iter().position(|known| *known == name);
                let device = known.unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                Axis {
                    device,
                    isolated: 0,
                }
            }));
        }
        Self {
            axes,
            isolated: names.iter().map(|_| 0).collect(),
        }
    }

    /// Whether another axis of its device is isolated. An axis that is isolated itself is still looked at: it is the
    /// one that must find its way back.
    pub(crate) fn isolates(&self, sensor: SensorId) -> bool {
        self.axes[sensor.index()]
            .is_some_and(|axis| axis.isolated == 0 && self.isolated[axis.device] > 0)
    }

    pub(crate) fn note(&mut self, sensor: SensorId, from: ChannelState, to: ChannelState) {
        let Some(axis) = &mut self.axes[sensor.index()] else {
            return;
        };
        let count = &mut self.isolated[axis.device];
        match (from.is_isolated(), to.is_isolated()) {
            (false, true) => {
                axis.isolated += 1;
                *count += 1;
            }
            (true, false) => {
                axis.isolated = axis.isolated.saturating_sub(1);
                *count = count.saturating_sub(1);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Devices;
    use crate::{config::SensorConfig, units::SensorId, vote::ChannelState};

    #[test]
    fn one_axis_takes_the_others_with_it_until_it_is_back() {
        let sensor = |device: Option<&str>| SensorConfig {
            id: "s".into(),
            range: None,
            device: device.map(Into::into),
        };
        let sensors = [Some("a"), Some("a"), Some("b"), None].map(sensor);
        let mut devices = Devices::new(&sensors);
        let out = |devices: &Devices| [0, 1, 2, 3].map(|id| devices.isolates(SensorId(id)));
        assert_eq!(out(&devices), [false; 4]);
        devices.note(
            SensorId(0),
            ChannelState::Healthy,
            ChannelState::Quarantined,
        );
        devices.note(
            SensorId(3),
            ChannelState::Healthy,
            ChannelState::Quarantined,
        );
        assert_eq!(out(&devices), [false, true, false, false]);
        devices.note(SensorId(0), ChannelState::Quarantined, ChannelState::Failed);
        assert_eq!(out(&devices), [false, true, false, false]);
        devices.note(SensorId(0), ChannelState::Failed, ChannelState::Healthy);
        assert_eq!(out(&devices), [false; 4]);
    }
}
