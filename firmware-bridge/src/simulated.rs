//! A simulated source for demonstrations and trials, with the faults that real sensors show.
//!
//! Owns a pure function of (configuration, sample number): no clock, no state but the counter. The same
//! configuration gives the same samples on every processor (its mathematics comes from `libm`, its random numbers
//! from a generator of its own), so a run can be repeated to the bit.
//!
//! Without a fault, sample n is `base + offset + amplitude * sin(2π n / period_samples) + noise`. Redundant sensors
//! share base, amplitude and period, and differ in seed and offset.

use core::f64::consts::TAU;
use core::fmt;

use crate::config::ConfigError;
use crate::{Probe, SampleFault};

/// The greatest magnitude of any number in the configuration, so that no sum overflows.
const MAGNITUDE_MAX: f64 = 1e15;

/// What a simulated sensor delivers. Numbers are in the quantity's unit.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedConfig {
    /// Chooses the noise. Default 0.
    pub seed: u64,
    /// The middle of the signal. Default 20.
    pub base: f64,
    /// The sine's amplitude. Default 0: a constant signal.
    pub amplitude: f64,
    /// The sine's period in samples, at least 1. Default 600.
    pub period_samples: u32,
    /// The standard deviation of the normal noise, not negative. Default 0.
    pub noise_sigma: f64,
    /// What this sensor reads too much, for ever: its calibration error. Default 0.
    pub offset: f64,
    /// What goes wrong, if anything. Default none.
    pub fault: Option<SimulatedFault>,
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            base: 20.0,
            amplitude: 0.0,
            period_samples: 600,
            noise_sigma: 0.0,
            offset: 0.0,
            fault: None,
        }
    }
}

/// A fault that begins and may end.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedFault {
    /// What goes wrong.
    pub kind: SimulatedFaultKind,
    /// How much, in the quantity's unit; see the kind. Default 5. `stuck`, `dropout` and `nan` do not use it.
    pub magnitude: f64,
    /// For each sample, how likely the fault shows, from 0 to 1. Default 1, for `spike` 0.05. Used by `dropout`,
    /// `nan` and `spike`.
    pub probability: f64,
    /// The first faulty sample, counted from 0. Default 0.
    pub from_sample: u64,
    /// The first sample that is sound again. Default none: the fault stays.
    pub until_sample: Option<u64>,
}

impl SimulatedFault {
    /// A fault of a kind with its defaults.
    #[must_use]
    pub const fn new(kind: SimulatedFaultKind) -> Self {
        Self {
            kind,
            magnitude: 5.0,
            probability: match kind {
                SimulatedFaultKind::Spike => 0.05,
                _ => 1.0,
            },
            from_sample: 0,
            until_sample: None,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        check_magnitude("magnitude", self.magnitude)?;
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(ConfigError::number(
                "probability",
                self.probability,
                "0 to 1",
            ));
        }
        match self.until_sample {
            Some(until_sample) if until_sample <= self.from_sample => Err(ConfigError::number(
                "until_sample",
                until_sample,
                format!("more than from_sample, which is {}", self.from_sample),
            )),
            _ => Ok(()),
        }
    }

    fn is_active(&self, sample: u64) -> bool {
        sample >= self.from_sample
            && self
                .until_sample
                .is_none_or(|until_sample| sample < until_sample)
    }
}

/// What can go wrong with a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SimulatedFaultKind {
    /// Repeats its last sound value.
    Stuck,
    /// Reads too much by the magnitude.
    Bias,
    /// Reads more too much with every sample, by the magnitude each.
    Drift,
    /// Has more noise: normal, with the magnitude as its standard deviation.
    Noise,
    /// Delivers no sample.
    Dropout,
    /// Delivers NaN.
    Nan,
    /// Reads too much or too little by the magnitude, now and then.
    Spike,
}

impl SimulatedFaultKind {
    /// Every kind once.
    pub const ALL: [Self; 7] = [
        Self::Stuck,
        Self::Bias,
        Self::Drift,
        Self::Noise,
        Self::Dropout,
        Self::Nan,
        Self::Spike,
    ];

    /// The kind as a configuration spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stuck => "stuck",
            Self::Bias => "bias",
            Self::Drift => "drift",
            Self::Noise => "noise",
            Self::Dropout => "dropout",
            Self::Nan => "nan",
            Self::Spike => "spike",
        }
    }
}

impl fmt::Display for SimulatedFaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl core::str::FromStr for SimulatedFaultKind {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                let expected = Self::ALL.map(Self::as_str).join(", ");
                ConfigError::text("kind", text, format!("one of {expected}"))
            })
    }
}

impl SimulatedConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// When a number is not finite, too large, negative where it may not be, or a fault ends before it begins.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_magnitude("base", self.base)?;
        check_magnitude("amplitude", self.amplitude)?;
        check_magnitude("offset", self.offset)?;
        check_magnitude("noise_sigma", self.noise_sigma)?;
        if self.noise_sigma < 0.0 {
            return Err(ConfigError::number(
                "noise_sigma",
                self.noise_sigma,
                "0 or more",
            ));
        }
        if self.period_samples == 0 {
            return Err(ConfigError::number("period_samples", 0, "1 or more"));
        }
        self.fault.as_ref().map_or(Ok(()), SimulatedFault::validate)
    }

    /// What sample number `sample` is.
    ///
    /// # Errors
    /// `NoAcknowledge` where a dropout shows.
    fn sample_at(&self, sample: u64) -> Result<f64, SampleFault> {
        let sound = self.sound_at(sample);
        let Some(fault) = self.fault.as_ref().filter(|fault| fault.is_active(sample)) else {
            return Ok(sound);
        };
        // The fault draws from streams of its own, so that the noise below it stays the same.
        let shows = || uniform(self.seed, sample, Stream::Shows) < fault.probability;
        Ok(match fault.kind {
            SimulatedFaultKind::Stuck => self.sound_at(fault.from_sample.saturating_sub(1)),
            SimulatedFaultKind::Bias => sound + fault.magnitude,
            SimulatedFaultKind::Drift => {
                let steps = sample.saturating_sub(fault.from_sample).saturating_add(1);
                sound + fault.magnitude * f64::from(u32::try_from(steps).unwrap_or(u32::MAX))
            }
            SimulatedFaultKind::Noise => {
                sound + fault.magnitude * normal(self.seed, sample, Stream::FaultNoise)
            }
            SimulatedFaultKind::Dropout if shows() => return Err(SampleFault::NoAcknowledge),
            SimulatedFaultKind::Nan if shows() => f64::NAN,
            SimulatedFaultKind::Spike if shows() => {
                let upwards = uniform(self.seed, sample, Stream::Sign) < 0.5;
                if upwards {
                    sound + fault.magnitude
                } else {
                    sound - fault.magnitude
                }
            }
            SimulatedFaultKind::Dropout | SimulatedFaultKind::Nan | SimulatedFaultKind::Spike => {
                sound
            }
        })
    }

    /// What the sensor would deliver without its fault.
    fn sound_at(&self, sample: u64) -> f64 {
        let period = self.period_samples.max(1);
        let phase = u32::try_from(sample % u64::from(period))
            .expect("a remainder is less than its divisor, which is a u32");
        let sine = libm::sin(TAU * f64::from(phase) / f64::from(period));
        let noise = normal(self.seed, sample, Stream::Noise);
        self.base + self.offset + self.amplitude * sine + self.noise_sigma * noise
    }
}

impl fmt::Display for SimulatedConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "simulated, {}", self.base)?;
        if self.amplitude != 0.0 {
            write!(
                formatter,
                " ± {} over {} samples",
                self.amplitude.abs(),
                self.period_samples
            )?;
        }
        if self.offset != 0.0 {
            write!(formatter, ", offset {}", self.offset)?;
        }
        if self.noise_sigma != 0.0 {
            write!(formatter, ", noise {}", self.noise_sigma)?;
        }
        write!(formatter, ", seed {}", self.seed)?;
        if let Some(fault) = &self.fault {
            write!(
                formatter,
                ", {} from sample {}",
                fault.kind, fault.from_sample
            )?;
            if let Some(until_sample) = fault.until_sample {
                write!(formatter, " until {until_sample}")?;
            }
        }
        Ok(())
    }
}

fn check_magnitude(key: &'static str, number: f64) -> Result<(), ConfigError> {
    // NaN is in no range.
    if (-MAGNITUDE_MAX..=MAGNITUDE_MAX).contains(&number) {
        Ok(())
    } else {
        Err(ConfigError::number(
            key,
            number,
            "a number from -1e15 to 1e15",
        ))
    }
}

/// A sensor that exists in the program only.
#[derive(Clone, Debug)]
pub struct SimulatedProbe {
    config: SimulatedConfig,
    next_sample: u64,
}

impl SimulatedProbe {
    /// Begins with sample 0.
    ///
    /// # Errors
    /// When the configuration does not validate.
    pub fn new(config: SimulatedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            next_sample: 0,
        })
    }
}

impl Probe for SimulatedProbe {
    /// The next value. Every call counts as one sample, also one that drops out.
    fn sample(&mut self) -> Result<f64, SampleFault> {
        let result = self.config.sample_at(self.next_sample);
        self.next_sample = self.next_sample.saturating_add(1);
        result
    }
}

/// What a random number is for. Each use has its own numbers for every sample.
#[derive(Clone, Copy)]
enum Stream {
    Noise,
    FaultNoise,
    Shows,
    Sign,
}

impl Stream {
    const fn tag(self) -> u64 {
        match self {
            Self::Noise => 1,
            Self::FaultNoise => 2,
            Self::Shows => 3,
            Self::Sign => 4,
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Bits that depend on the seed, the sample and the use, and on nothing else.
const fn bits_of(seed: u64, sample: u64, stream: Stream) -> u64 {
    // The generator's own increment keeps neighbouring numbers far apart.
    const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
    let from_seed = mix(seed.wrapping_add(INCREMENT));
    let from_stream = mix(from_seed.wrapping_add(stream.tag().wrapping_mul(INCREMENT)));
    mix(from_stream.wrapping_add(sample.wrapping_mul(INCREMENT)))
}

/// Two numbers from the two halves, both greater than 0 and less than 1.
fn uniform_pair(bits: u64) -> (f64, f64) {
    const HALVES: f64 = 4_294_967_296.0;
    let [a, b, c, d, e, f, g, h] = bits.to_le_bytes();
    let open = |bytes: [u8; 4]| (f64::from(u32::from_le_bytes(bytes)) + 0.5) / HALVES;
    (open([a, b, c, d]), open([e, f, g, h]))
}

fn uniform(seed: u64, sample: u64, stream: Stream) -> f64 {
    uniform_pair(bits_of(seed, sample, stream)).0
}

/// A number with mean 0 and standard deviation 1 (Box and Muller, 1958), at most 6.8 in magnitude.
fn normal(seed: u64, sample: u64, stream: Stream) -> f64 {
    let (first, second) = uniform_pair(bits_of(seed, sample, stream));
    libm::sqrt(-2.0 * libm::log(first)) * libm::cos(TAU * second)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{SimulatedConfig, SimulatedFault, SimulatedFaultKind, SimulatedProbe};
    use crate::{Probe, SampleFault};
    use proptest::prelude::*;

    fn samples(config: &SimulatedConfig, count: usize) -> Vec<Result<f64, SampleFault>> {
        let mut probe = SimulatedProbe::new(config.clone()).unwrap();
        (0..count).map(|_| probe.sample()).collect()
    }

    fn values(config: &SimulatedConfig, count: usize) -> Vec<f64> {
        samples(config, count)
            .into_iter()
            .map(Result::unwrap)
            .collect()
    }

    fn noisy() -> SimulatedConfig {
        SimulatedConfig {
            seed: 7,
            amplitude: 2.0,
            noise_sigma: 0.5,
            ..SimulatedConfig::default()
        }
    }

    /// The noisy sensor with a fault from sample 10 until sample 20.
    fn faulty(kind: SimulatedFaultKind) -> SimulatedConfig {
        let fault = SimulatedFault {
            from_sample: 10,
            until_sample: Some(20),
            ..SimulatedFault::new(kind)
        };
        SimulatedConfig {
            fault: Some(fault),
            ..noisy()
        }
    }

    /// Sound values, faulty values, and how much the faulty ones are off; checks that the rest is untouched.
    fn differences(config: &SimulatedConfig) -> Vec<f64> {
        let (sound, found) = (values(&noisy(), 30), values(config, 30));
        assert_eq!(sound[..10], found[..10]);
        assert_eq!(sound[20..], found[20..]);
        (10..20).map(|index| found[index] - sound[index]).collect()
    }

    #[test]
    fn golden_values_stay_the_same_on_every_processor_and_version() {
        let bits: Vec<u64> = values(&noisy(), 3).into_iter().map(f64::to_bits).collect();
        // Computed from the formulas in the module's text by a program in another language.
        let golden = [
            4626177076686104140,
            4626177653251227492,
            4626234668635971143,
        ];
        assert_eq!(bits, golden);
    }

    #[test]
    fn the_defaults_are_a_constant() {
        assert_eq!(values(&SimulatedConfig::default(), 3), [20.0; 3]);
    }

    #[test]
    fn the_sine_has_its_amplitude_and_period() {
        let config = SimulatedConfig {
            amplitude: 3.0,
            period_samples: 4,
            offset: 1.0,
            ..SimulatedConfig::default()
        };
        let found = values(&config, 8);
        for (found, expected) in found
            .iter()
            .zip([21.0, 24.0, 21.0, 18.0, 21.0, 24.0, 21.0, 18.0])
        {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn noise_has_the_sigma_that_was_asked_for() {
        let config = SimulatedConfig {
            base: 0.0,
            noise_sigma: 2.0,
            ..SimulatedConfig::default()
        };
        let found = values(&config, 20_000);
        let mean = found.iter().sum::<f64>() / 20_000.0;
        let variance = found
            .iter()
            .map(|value| (value - mean).powi(2))
            .sum::<f64>()
            / 20_000.0;
        // Five standard errors: 2 / sqrt(20000) and 2 / sqrt(40000).
        assert!(mean.abs() < 0.071, "{mean}");
        assert!((variance.sqrt() - 2.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn seeds_give_independent_noise() {
        let config = |seed| SimulatedConfig {
            seed,
            base: 0.0,
            noise_sigma: 1.0,
            ..SimulatedConfig::default()
        };
        for other in [1, 2, u64::MAX] {
            let (first, second) = (values(&config(0), 10_000), values(&config(other), 10_000));
            let correlation = first.iter().zip(&second).map(|(a, b)| a * b).sum::<f64>() / 10_000.0;
            assert!(correlation.abs() < 0.05, "{other} {correlation}");
        }
    }

    #[test]
    fn stuck_repeats_the_last_sound_value() {
        let found = values(&faulty(SimulatedFaultKind::Stuck), 30);
        assert!(found[10..20].iter().all(|value| *value == found[9]));
        assert_ne!(found[20], found[9]);
    }

    #[test]
    fn bias_is_the_magnitude() {
        for difference in differences(&faulty(SimulatedFaultKind::Bias)) {
            assert!((difference - 5.0).abs() < 1e-12, "{difference}");
        }
    }

    #[test]
    fn drift_grows_by_the_magnitude() {
        let found = differences(&faulty(SimulatedFaultKind::Drift));
        for (difference, steps) in found.iter().zip(1..) {
            assert!(
                (difference - 5.0 * f64::from(steps)).abs() < 1e-12,
                "{difference}"
            );
        }
    }

    #[test]
    fn noise_moves_every_sample_by_another_amount() {
        let found = differences(&faulty(SimulatedFaultKind::Noise));
        assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "{found:?}");
        let square = found
            .iter()
            .map(|difference| difference.powi(2))
            .sum::<f64>()
            / 10.0;
        // The middle 99.8 % of a chi-square with ten degrees of freedom, over ten, times 25.
        assert!((3.7..74.0).contains(&square), "{square}");
    }

    #[test]
    fn dropout_delivers_no_sample_and_nan_delivers_nan() {
        let found = samples(&faulty(SimulatedFaultKind::Dropout), 30);
        let lost: Vec<usize> = (0..30)
            .filter(|&index| found[index] == Err(SampleFault::NoAcknowledge))
            .collect();
        assert_eq!(lost, (10..20).collect::<Vec<_>>());
        let found = values(&faulty(SimulatedFaultKind::Nan), 30);
        let nan: Vec<usize> = (0..30).filter(|&index| found[index].is_nan()).collect();
        assert_eq!(nan, (10..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_probability_is_how_often_a_fault_shows() {
        let mut fault = SimulatedFault::new(SimulatedFaultKind::Spike);
        fault.magnitude = 100.0;
        let config = SimulatedConfig {
            fault: Some(fault),
            ..SimulatedConfig::default()
        };
        let found = values(&config, 10_000);
        let up = found.iter().filter(|value| **value == 120.0).count();
        let down = found.iter().filter(|value| **value == -80.0).count();
        let sound = found.iter().filter(|value| **value == 20.0).count();
        assert_eq!(up + down + sound, 10_000);
        // 250 expected each way, standard deviation 15.6.
        assert!(
            (172..=328).contains(&up) && (172..=328).contains(&down),
            "{up} {down}"
        );
    }

    #[test]
    fn a_fault_without_an_end_stays() {
        let mut config = faulty(SimulatedFaultKind::Stuck);
        config.fault.as_mut().unwrap().until_sample = None;
        let found = values(&config, 100);
        assert!(found[10..].iter().all(|value| *value == found[9]));
    }

    fn check_refused(key: &str, change: impl Fn(&mut SimulatedConfig)) {
        let mut config = faulty(SimulatedFaultKind::Bias);
        config.validate().unwrap();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().key, key);
        assert_eq!(SimulatedProbe::new(config).unwrap_err().key, key);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        for wrong in [f64::NAN, f64::INFINITY, 2e15, -2e15] {
            check_refused("base", |config| config.base = wrong);
            check_refused("amplitude", |config| config.amplitude = wrong);
            check_refused("offset", |config| config.offset = wrong);
            check_refused("noise_sigma", |config| config.noise_sigma = wrong);
            check_refused("magnitude", |config| {
                config.fault.as_mut().unwrap().magnitude = wrong
            });
            check_refused("probability", |config| {
                config.fault.as_mut().unwrap().probability = wrong
            });
        }
        check_refused("noise_sigma", |config| config.noise_sigma = -0.1);
        check_refused("period_samples", |config| config.period_samples = 0);
        check_refused("probability", |config| {
            config.fault.as_mut().unwrap().probability = 1.01
        });
        check_refused("until_sample", |config| {
            config.fault.as_mut().unwrap().until_sample = Some(10)
        });
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in SimulatedFaultKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "melted".parse::<SimulatedFaultKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "kind = \"melted\": expected one of stuck, bias, drift, noise, dropout, nan, spike"
        );
    }

    #[test]
    fn describes_itself_in_one_line() {
        assert_eq!(
            SimulatedConfig::default().to_string(),
            "simulated, 20, seed 0"
        );
        assert_eq!(
            faulty(SimulatedFaultKind::Drift).to_string(),
            "simulated, 20 ± 2 over 600 samples, noise 0.5, seed 7, drift from sample 10 until 20"
        );
    }

    proptest! {
        /// Every configuration that validates delivers finite values (or its own kind of fault) at any sample.
        #[test]
        fn every_valid_configuration_delivers(
            seed: u64,
            base in -1e15..1e15,
            amplitude in -1e15..1e15,
            noise_sigma in 0.0..1e15,
            period_samples in 1..=u32::MAX,
            kind in 0..7_usize,
            sample: u64,
        ) {
            let kind = SimulatedFaultKind::ALL[kind];
            let fault = Some(SimulatedFault { magnitude: 1e15, ..SimulatedFault::new(kind) });
            let config = SimulatedConfig { seed, base, amplitude, noise_sigma, period_samples, fault, offset: 1e15 };
            config.validate().unwrap();
            match config.sample_at(sample) {
                Ok(value) => prop_assert!(value.is_finite() || kind == SimulatedFaultKind::Nan),
                Err(_) => prop_assert_eq!(kind, SimulatedFaultKind::Dropout),
            }
        }
    }
}
