//! Every relation that the core relies upon, checked once.
//!
//! Owns: the checks and their messages. Must not: change a setting.

use alloc::{format, string::String};

use super::{
    BROKERS_MAX, CODES_MAX, Config, ConfigError, GuardConfig, ID_BYTES_MAX, LinkConfig, MODELS_MAX,
    ModelConfig, OutboxConfig, PERIOD_MS_MAX, PERIOD_MS_MIN, QUANTITIES_MAX, QuantityConfig,
    SENSORS_MAX, SensorConfig, WINDOW_VALUES_MAX,
};
use crate::{
    model::{Impute, Missing, Split, TrialRules},
    vote::{CHANNELS_MAX, Kind},
};

impl Config {
    /// Checks every relation that the core relies upon.
    ///
    /// # Errors
    /// The first key that does not hold, with what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_id("device.id", &self.device)?;
        check_count("sensors", self.sensors.len(), SENSORS_MAX)?;
        check_count("quantities", self.quantities.len(), QUANTITIES_MAX)?;
        check_count("models", self.models.len(), MODELS_MAX)?;
        for (index, sensor) in self.sensors.iter().enumerate() {
            sensor.validate(&format!("sensors[{index}]"))?;
            let twin = self.sensors[..index]
                .iter()
                .any(|other| other.id == sensor.id);
            check(!twin, &format!("sensors[{index}].id"), || {
                format!("`{}` is used twice", sensor.id)
            })?;
        }
        for (index, quantity) in self.quantities.iter().enumerate() {
            quantity.validate(&format!("quantities[{index}]"), self.sensors.len())?;
            let twin = self.quantities[..index]
                .iter()
                .any(|other| other.id == quantity.id);
            check(!twin, &format!("quantities[{index}].id"), || {
                format!("`{}` is used twice", quantity.id)
            })?;
        }
        for (index, model) in self.models.iter().enumerate() {
            let key = format!("models[{index}]");
            model.validate(&key, self.quantities.len())?;
            if let Missing::Fallback(other) = model.missing {
                check(
                    other.index() < self.models.len() && other.index() != index,
                    &key,
                    || "expected another model to fall back to".into(),
                )?;
            }
        }
        self.guard.validate(self.sensors.len())?;
        self.outbox.validate()?;
        self.link.map_or(Ok(()), |link| link.validate())?;
        check(self.vitals.stroke_ms > 0, "vitals.stroke_ms", || {
            "expected at least 1".into()
        })?;
        check(self.vitals.stall_ms >= 1_000, "vitals.stall_ms", || {
            "expected at least 1000".into()
        })
    }
}

impl GuardConfig {
    fn validate(&self, sensors: usize) -> Result<(), ConfigError> {
        check_count("buses", self.buses.len(), SENSORS_MAX)?;
        check_count("sensors", self.parts.len(), SENSORS_MAX)?;
        let mut taken = alloc::vec![false; sensors];
        for part in &self.parts {
            check(part.bus.index() < self.buses.len(), "buses", || {
                format!("no such bus for `{}`", part.id)
            })?;
            for sensor in &part.sensors {
                let free = taken
                    .get_mut(sensor.index())
                    .is_some_and(|taken| !core::mem::replace(taken, true));
                check(free, "sensors", || {
                    format!("a sensor of `{}` is not there, or twice", part.id)
                })?;
            }
        }
        Ok(())
    }
}

impl SensorConfig {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        if let Some(device) = &self.device {
            check_id(&format!("{key}.device"), device)?;
        }
        check_range(&format!("{key}.range"), self.range)
    }
}

impl QuantityConfig {
    fn validate(&self, key: &str, sensors: usize) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        self.validate_channels(key, sensors)?;
        self.validate_times(key)?;
        self.validate_voting(key)
    }

    fn validate_channels(&self, key: &str, sensors: usize) -> Result<(), ConfigError> {
        let channels = self.sensors.len();
        check(
            (1..=CHANNELS_MAX).contains(&channels),
            &format!("{key}.sensors"),
            || format!("expected 1 to {CHANNELS_MAX} sensors, found {channels}"),
        )?;
        for (index, sensor) in self.sensors.iter().enumerate() {
            check(
                sensor.index() < sensors,
                &format!("{key}.sensors[{index}]"),
                || "no such sensor".into(),
            )?;
            let twin = self.sensors[..index].contains(sensor);
            check(!twin, &format!("{key}.sensors[{index}]"), || {
                "a sensor may stand only once in a quantity".into()
            })?;
        }
        Ok(())
    }

    fn validate_times(&self, key: &str) -> Result<(), ConfigError> {
        check(
            (PERIOD_MS_MIN..=PERIOD_MS_MAX).contains(&self.period_ms),
            &format!("{key}.period_ms"),
            || {
                format!(
                    "expected {PERIOD_MS_MIN} to {PERIOD_MS_MAX}, found {}",
                    self.period_ms
                )
            },
        )?;
        check(
            self.timeout_ms >= self.period_ms,
            &format!("{key}.timeout_ms"),
            || {
                format!(
                    "expected at least period_ms ({}), found {}",
                    self.period_ms, self.timeout_ms
                )
            },
        )?;
        check(
            self.lead_ms < self.period_ms,
            &format!("{key}.lead_ms"),
            || {
                format!(
                    "expected less than period_ms ({}), found {}",
                    self.period_ms, self.lead_ms
                )
            },
        )
    }

    fn validate_voting(&self, key: &str) -> Result<(), ConfigError> {
        let channels = self.sensors.len();
        match self.kind {
            Kind::Scalar => {}
            Kind::Circular { low, high } => {
                check_range(&format!("{key}.circle"), Some((low, high)))?;
                check(
                    self.accuracy_relative == 0.0,
                    &format!("{key}.accuracy"),
                    || "expected no share of the value: a circle has no zero".into(),
                )?;
            }
            Kind::Codes(codes) => {
                check(
                    (2..=CODES_MAX).contains(&codes),
                    &format!("{key}.labels"),
                    || format!("expected 2 to {CODES_MAX} labels, found {codes}"),
                )?;
                check(
                    self.accuracy_absolute.is_none(),
                    &format!("{key}.accuracy"),
                    || "expected none: codes are right or wrong".into(),
                )?;
            }
        }
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        check(
            self.accuracy_absolute.is_none_or(positive) && positive(self.accuracy_relative),
            &format!("{key}.accuracy"),
            || "expected finite numbers of at least 0".into(),
        )?;
        check(
            (1..=channels).contains(&self.sources_min),
            &format!("{key}.min_sources"),
            || {
                format!(
                    "expected 1 to the number of sensors ({channels}), found {}",
                    self.sources_min
                )
            },
        )?;
        check(self.fail_count >= 1, &format!("{key}.fail_count"), || {
            "expected at least 1".into()
        })?;
        check(self.clear_count >= 1, &format!("{key}.clear_count"), || {
            "expected at least 1".into()
        })
    }
}

impl ModelConfig {
    fn validate(&self, key: &str, quantities: usize) -> Result<(), ConfigError> {
        check_id(&format!("{key}.id"), &self.id)?;
        check(!self.inputs.is_empty(), &format!("{key}.inputs"), || {
            "expected at least one input".into()
        })?;
        check(!self.outputs.is_empty(), &format!("{key}.outputs"), || {
            "expected at least one output".into()
        })?;
        let values = self.window.saturating_mul(self.inputs.len());
        check(
            (1..=WINDOW_VALUES_MAX).contains(&values),
            &format!("{key}.window"),
            || format!("expected 1 to {WINDOW_VALUES_MAX} values, found {values}"),
        )?;
        for (index, input) in self.inputs.iter().enumerate() {
            let key = format!("{key}.inputs[{index}]");
            check(input.quantity.index() < quantities, &key, || {
                "no such quantity".into()
            })?;
            let scaled = input.mean.is_finite() && input.scale.is_finite() && input.scale > 0.0;
            check(scaled, &key, || {
                "expected a finite mean and a finite scale above 0".into()
            })?;
            check_range(&key, input.range)?;
            let finite = !matches!(input.impute, Some(Impute::Value(value)) if !value.is_finite());
            check(finite, &key, || {
                "expected a finite value to stand in".into()
            })?;
        }
        self.validate_outputs(key)?;
        self.trial
            .as_ref()
            .map_or(Ok(()), |rules| rules.validate(&format!("{key}.trial")))
    }

    fn validate_outputs(&self, key: &str) -> Result<(), ConfigError> {
        for range in &self.output_ranges {
            check_range(&format!("{key}.outputs"), *range)?;
        }
        let hysteresis = self.hysteresis.is_finite() && self.hysteresis >= 0.0;
        check(hysteresis, &format!("{key}.hysteresis"), || {
            "expected a finite number of at least 0".into()
        })?;
        let turns = !matches!(self.split, Some(Split::Time { period_ms: 0 }));
        check(turns, &format!("{key}.ab.period_s"), || {
            "expected above 0".into()
        })
    }
}

impl TrialRules {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check(self.answers_min >= 1, &format!("{key}.answers_min"), || {
            "expected at least 1".into()
        })?;
        for (name, share) in [
            ("disagreement_max", self.disagreement_max),
            ("errors_max_share", self.errors_share_max),
            ("inputs_good_min_share", self.inputs_good_share_min),
        ] {
            let inside = (0.0..=1.0).contains(&share);
            check(inside, &format!("{key}.{name}"), || {
                format!("expected 0 to 1, found {share}")
            })?;
        }
        for (name, most) in [
            ("difference_max", self.difference_max),
            ("drift_max", self.drift_max),
        ] {
            let positive = most.is_none_or(|most| most.is_finite() && most >= 0.0);
            check(positive, &format!("{key}.{name}"), || {
                "expected a finite number of at least 0".into()
            })?;
        }
        Ok(())
    }
}

impl OutboxConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check(
            self.batch_records_max >= 1,
            "mqtt.batch_records_max",
            || "expected at least 1".into(),
        )?;
        check(self.batch_bytes_max >= 1024, "mqtt.batch_bytes_max", || {
            "expected at least 1024".into()
        })?;
        check(
            (1..=1024).contains(&self.inflight_batches_max),
            "mqtt.inflight_batches_max",
            || "expected 1 to 1024".into(),
        )?;
        check(self.ack_timeout_ms >= 100, "mqtt.ack_timeout_ms", || {
            "expected at least 100".into()
        })?;
        check(
            self.watermark_timeout_ms >= 1_000,
            "mqtt.watermark_timeout_ms",
            || "expected at least 1000".into(),
        )
    }
}

impl LinkConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        check(self.backoff_ms_min >= 10, "mqtt.backoff_ms_min", || {
            "expected at least 10".into()
        })?;
        check(
            self.backoff_ms_max >= self.backoff_ms_min,
            "mqtt.backoff_ms_max",
            || format!("expected at least backoff_ms_min ({})", self.backoff_ms_min),
        )?;
        check(
            self.connect_timeout_ms >= 100,
            "mqtt.connect_timeout_ms",
            || "expected at least 100".into(),
        )?;
        check(
            (1..=BROKERS_MAX).contains(&self.brokers),
            "mqtt.fallback_urls",
            || format!("expected at most {} addresses", BROKERS_MAX - 1),
        )?;
        check(
            self.failover_attempts >= 1,
            "mqtt.failover_attempts",
            || "expected at least 1".into(),
        )?;
        check(self.failback_ms >= 1_000, "mqtt.failback_ms", || {
            "expected at least 1000".into()
        })
    }
}

fn check(holds: bool, key: &str, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError {
        key: key.into(),
        message: message(),
    })
}

fn check_id(key: &str, id: &str) -> Result<(), ConfigError> {
    let legal = |character: char| character.is_alphanumeric() || "-_.:".contains(character);
    check(
        !id.is_empty() && id.len() <= ID_BYTES_MAX && id.chars().all(legal),
        key,
        || {
            format!(
                "expected 1 to {ID_BYTES_MAX} letters, digits, `-`, `_`, `.` or `:`, found `{id}`"
            )
        },
    )
}

fn check_count(key: &str, count: usize, most: usize) -> Result<(), ConfigError> {
    check(count <= most, key, || {
        format!("expected at most {most}, found {count}")
    })
}

fn check_range(key: &str, range: Option<(f64, f64)>) -> Result<(), ConfigError> {
    let ordered = range.is_none_or(|(low, high)| low.is_finite() && high.is_finite() && low < high);
    check(ordered, key, || {
        "expected two finite numbers, the lower first".into()
    })
}
