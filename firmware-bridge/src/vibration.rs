//! Features of vibration: what a block of equidistant samples says about a machine.
//!
//! Owns the formulas. Must not: sample. Pure functions of their input; the mean is taken away first, so gravity does not
//! count. Sources: ISO 13373-2 for the features of the time signal; bands by the discrete Fourier transform with a
//! rectangular window, so that by Parseval's theorem the squares of all bands add up to the square of the RMS.

/// How many bands there are. Each is an octave below the next; the highest ends at half the sampling rate.
pub const BANDS: usize = 4;

/// The features of one block, in the unit of the samples but for two ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Features {
    /// Root of the mean square.
    pub rms: f64,
    /// Largest distance from the mean.
    pub peak: f64,
    /// Peak by RMS: 1.41 for a sine, more for blows. 0 for a signal that stands still.
    pub crest: f64,
    /// Fourth moment by the square of the second: 1.5 for a sine, 3 for noise, more for blows. 0 for one that stands still.
    pub kurtosis: f64,
    /// RMS of the bands up to 1/8, 1/4, 1/2 and all of half the sampling rate.
    pub bands: [f64; BANDS],
}

impl Features {
    /// The features of a block; all zero for fewer than two samples. Costs the square of the length: meant for hundreds.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let Ok(length) = u32::try_from(samples.len()) else {
            return Self::default();
        };
        // One that stands still has none, however the mean is rounded.
        if samples.iter().all(|sample| *sample == samples[0]) {
            return Self::default();
        }
        let count = f64::from(length);
        let mean = samples.iter().sum::<f64>() / count;
        let centred: Vec<f64> = samples.iter().map(|sample| sample - mean).collect();
        let moment =
            |power: i32| centred.iter().map(|value| value.powi(power)).sum::<f64>() / count;
        let (second, fourth) = (moment(2), moment(4));
        let rms = second.sqrt();
        let peak = centred
            .iter()
            .fold(0.0_f64, |peak, value| peak.max(value.abs()));
        Self {
            rms,
            peak,
            crest: peak / rms,
            kurtosis: fourth / (second * second),
            bands: bands(&centred, length),
        }
    }
}

fn bands(centred: &[f64], length: u32) -> [f64; BANDS] {
    let mut squares = [0.0; BANDS];
    for line in 1..=length / 2 {
        // Band b ends at 2^b / 16 of the rate.
        let band = (0_u32..)
            .zip(squares.iter_mut())
            .find(|(band, _)| u64::from(line) * 16 <= u64::from(length) << band)
            .or(None);
        // Every line but the one at half the rate stands for itself and its mirror image.
        let weight = if 2 * line == length { 1.0 } else { 2.0 };
        let square = weight * power_of_line(centred, line, length);
        match band {
            Some((_, sum)) => *sum += square,
            None => squares[BANDS - 1] += square,
        }
    }
    squares.map(f64::sqrt)
}

/// The square of one line of the transform by the square of the length.
fn power_of_line(centred: &[f64], line: u32, length: u32) -> f64 {
    let step = core::f64::consts::TAU * f64::from(line) / f64::from(length);
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (at, value) in (0_u32..).zip(centred) {
        let (sine, cosine) = (step * f64::from(at)).sin_cos();
        real += value * cosine;
        imaginary += value * sine;
    }
    (real * real + imaginary * imaginary) / (f64::from(length) * f64::from(length))
}

#[cfg(test)]
mod tests {
    use super::{BANDS, Features};
    use core::f64::consts::TAU;
    use proptest::prelude::*;

    fn sine(length: u32, cycles: f64, amplitude: f64, offset: f64) -> Vec<f64> {
        (0..length)
            .map(|at| offset + amplitude * (TAU * cycles * f64::from(at) / f64::from(length)).sin())
            .collect()
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn a_sine_has_the_features_of_a_sine() {
        // 16 cycles in 128 samples: an eighth of the rate, the end of the second band; 9.81 of gravity below it.
        let features = Features::of(&sine(128, 16.0, 2.0, 9.81));
        assert!(near(features.rms, 2.0_f64.sqrt()), "{features:?}");
        assert!(near(features.peak, 2.0));
        assert!(near(features.crest, 2.0_f64.sqrt()));
        assert!(near(features.kurtosis, 1.5));
        assert!(near(features.bands[1], 2.0_f64.sqrt()), "{features:?}");
        assert!(features.bands[0] < 1e-9 && features.bands[2] < 1e-9 && features.bands[3] < 1e-9);
    }

    #[test]
    fn each_band_has_its_lines() {
        for (cycles, band) in [
            (1.0, 0),
            (8.0, 0),
            (9.0, 1),
            (16.0, 1),
            (17.0, 2),
            (32.0, 2),
            (33.0, 3),
            (63.0, 3),
        ] {
            let features = Features::of(&sine(128, cycles, 1.0, 0.0));
            for at in 0..BANDS {
                let expected = if at == band { 0.5_f64.sqrt() } else { 0.0 };
                assert!(
                    (features.bands[at] - expected).abs() < 1e-6,
                    "{cycles} {features:?}"
                );
            }
        }
    }

    #[test]
    fn a_blow_has_a_high_crest_and_kurtosis() {
        let mut samples = vec![0.0; 128];
        samples[40] = 1.0;
        let features = Features::of(&samples);
        // One of n: the kurtosis is (n^2 - 3n + 3) / (n - 1).
        assert!(
            near(features.kurtosis, (128.0 * 128.0 - 384.0 + 3.0) / 127.0),
            "{features:?}"
        );
        assert!(features.crest > 11.0);
    }

    #[test]
    fn what_stands_still_or_is_short_has_no_features() {
        assert_eq!(Features::of(&[5.0; 64]), Features::default());
        assert_eq!(Features::of(&[5.0]), Features::default());
        assert_eq!(Features::of(&[]), Features::default());
    }

    proptest! {
        /// Parseval: the bands share the whole.
        #[test]
        fn the_squares_of_the_bands_add_up(samples in proptest::collection::vec(-100.0..100.0_f64, 2..150)) {
            let features = Features::of(&samples);
            let sum: f64 = features.bands.iter().map(|band| band * band).sum();
            prop_assert!((sum - features.rms * features.rms).abs() < 1e-6, "{features:?}");
            prop_assert!(features.peak >= features.rms - 1e-9);
            prop_assert!(features.kurtosis >= 1.0 - 1e-9 || features.rms < 1e-9);
        }
    }
}
