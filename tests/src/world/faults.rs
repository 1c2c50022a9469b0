//! The fault mix of one seed, drawn as a swarm: each seed has some kinds of fault, at its own rates, and lacks others,
//! so that no fault hides another for ever.

use fastrand::Rng;

/// True in `per_mille` of 1000 cases.
pub(crate) fn chance(random: &mut Rng, per_mille: u32) -> bool {
    per_mille > 0 && random.u32(0..1000) < per_mille
}

/// One of the values.
fn one_of(random: &mut Rng, values: &[u32]) -> u32 {
    values[random.usize(0..values.len())]
}

/// A span of time that comes again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    period_ms: u64,
    length_ms: u64,
    phase_ms: u64,
}

impl Window {
    fn draw(random: &mut Rng, period_ms: u64, length_ms: u64) -> Self {
        let length_ms = random.u64(length_ms / 4..=length_ms);
        Self {
            period_ms: random.u64(period_ms / 2..=period_ms) + length_ms,
            length_ms,
            phase_ms: random.u64(0..=period_ms),
        }
    }

    pub(crate) fn is_open(self, now_ms: u64) -> bool {
        self.place(now_ms) < self.length_ms
    }

    fn place(self, now_ms: u64) -> u64 {
        (now_ms + self.phase_ms) % self.period_ms
    }

    /// When the window that is open now began.
    pub(crate) fn began_ms(self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.place(now_ms))
    }
}

/// What a sensor does while it is faulty.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SensorFault {
    Stuck,
    Bias(f64),
    Drift,
    Noisy,
    Spikes,
    NotANumber,
    Probe { permanent: bool },
    Silent,
    Late,
}

/// One faulty sensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BadSensor {
    pub(crate) channel: usize,
    pub(crate) fault: SensorFault,
    pub(crate) window: Window,
}

impl BadSensor {
    fn draw(random: &mut Rng, channel: usize) -> Self {
        let fault = match random.u32(0..10) {
            0 => SensorFault::Stuck,
            1 => SensorFault::Bias(random.f64() * 40.0 + 3.0),
            2 => SensorFault::Bias(-random.f64() * 3.0),
            3 => SensorFault::Drift,
            4 => SensorFault::Noisy,
            5 => SensorFault::Spikes,
            6 => SensorFault::NotANumber,
            7 => SensorFault::Probe {
                permanent: random.bool(),
            },
            8 => SensorFault::Silent,
            _ => SensorFault::Late,
        };
        Self {
            channel,
            fault,
            window: Window::draw(random, 1_200_000, 900_000),
        }
    }
}

/// The mix. Rates are per mille of the cases unless they say otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    pub(crate) power_cut_ppm: u32,
    pub(crate) freeze: u32,
    pub(crate) commit_fails: u32,
    pub(crate) commit_arrives_though_failed: u32,
    pub(crate) commit_slow: u32,
    pub(crate) commit_hangs_ppm: u32,
    pub(crate) disk_full: Option<Window>,
    pub(crate) records_max: usize,
    pub(crate) load_fails: u32,
    pub(crate) outage: Option<Window>,
    pub(crate) link_life_ms: u64,
    pub(crate) connect_fails: u32,
    pub(crate) connect_hangs: u32,
    pub(crate) ack_lost: u32,
    pub(crate) ack_late: u32,
    pub(crate) ack_twice: u32,
    pub(crate) ack_unknown: u32,
    pub(crate) refused: u32,
    pub(crate) unheard: Option<Window>,
    pub(crate) poison_every: u64,
    /// The broker takes nothing from this topic.
    pub(crate) forbidden: Option<Window>,
    /// The broker refuses every so-manieth record, until it is healed.
    pub(crate) forbidden_every: u64,
    /// The preferred one of two brokers is not there.
    pub(crate) preferred_away: Option<Window>,
    /// The broker acknowledges a message and loses it, where the receiver confirms.
    pub(crate) broker_loses: u32,
    /// Watermarks that are not true, where the receiver confirms.
    pub(crate) watermark_wrong: u32,
    /// Somebody asks for records again, per minute.
    pub(crate) recalls: u32,
    pub(crate) inference_fails: u32,
    pub(crate) inference_hangs: u32,
    pub(crate) wall_steps: u32,
    pub(crate) sample_late: u32,
    pub(crate) sample_lost: u32,
    pub(crate) bad_sensors: Vec<Vec<BadSensor>>,
}

impl Mix {
    pub(crate) fn draw(random: &mut Rng, quantities: usize) -> Self {
        let bad = (0..quantities).map(|_| Self::draw_bad_sensors(random));
        let bad_sensors = bad.collect();
        let window = |random: &mut Rng, share: u32, period_ms, length_ms| {
            chance(random, share).then(|| Window::draw(random, period_ms, length_ms))
        };
        let full_ms = if chance(random, 100) {
            2_700_000
        } else {
            400_000
        };
        Self {
            power_cut_ppm: one_of(random, &[0, 20, 100, 600]),
            freeze: one_of(random, &[0, 0, 5]),
            commit_fails: one_of(random, &[0, 0, 20, 300]),
            commit_arrives_though_failed: one_of(random, &[0, 500]),
            commit_slow: one_of(random, &[0, 10, 200]),
            commit_hangs_ppm: one_of(random, &[0, 0, 100, 500]),
            disk_full: window(random, 400, 1_800_000, full_ms),
            records_max: [1_000_000, 1_000_000, 1_500, 300][random.usize(0..4)],
            load_fails: one_of(random, &[0, 20, 200]),
            outage: window(random, 600, 1_200_000, 900_000),
            link_life_ms: u64::from(one_of(
                random,
                &[5_000, 60_000, 60_000, 600_000, 36_000_000],
            )),
            connect_fails: one_of(random, &[0, 100, 500]),
            connect_hangs: one_of(random, &[0, 0, 100]),
            ack_lost: one_of(random, &[0, 0, 10, 200]),
            ack_late: one_of(random, &[0, 50]),
            ack_twice: one_of(random, &[0, 100]),
            ack_unknown: one_of(random, &[0, 50]),
            refused: one_of(random, &[0, 0, 20, 100]),
            unheard: window(random, 300, 1_200_000, 300_000),
            poison_every: u64::from(one_of(random, &[0, 0, 0, 400, 2_000])),
            forbidden: window(random, 200, 1_200_000, 300_000),
            forbidden_every: u64::from(one_of(random, &[0, 0, 0, 500])),
            preferred_away: window(random, 300, 600_000, 300_000),
            broker_loses: one_of(random, &[0, 10, 100]),
            watermark_wrong: one_of(random, &[0, 100]),
            recalls: one_of(random, &[0, 0, 100]),
            inference_fails: one_of(random, &[0, 10, 300]),
            inference_hangs: one_of(random, &[0, 0, 2]),
            wall_steps: one_of(random, &[0, 50, 300]),
            sample_late: one_of(random, &[0, 5, 50]),
            sample_lost: one_of(random, &[0, 5, 30]),
            bad_sensors,
        }
    }

    /// None, one, or (in one of ten) two of the three.
    fn draw_bad_sensors(random: &mut Rng) -> Vec<BadSensor> {
        let first = random.usize(0..3);
        let count = match random.u32(0..10) {
            0..3 => 0,
            3..9 => 1,
            _ => 2,
        };
        (0..count)
            .map(|index| BadSensor::draw(random, (first + index) % 3))
            .collect()
    }

    /// Every fault ends. What a broker refuses for what it holds stays refused.
    pub(crate) fn healed(&self) -> Self {
        Self {
            power_cut_ppm: 0,
            freeze: 0,
            commit_fails: 0,
            commit_arrives_though_failed: 0,
            commit_slow: 0,
            commit_hangs_ppm: 0,
            disk_full: None,
            records_max: self.records_max,
            load_fails: 0,
            outage: None,
            link_life_ms: 0,
            connect_fails: 0,
            connect_hangs: 0,
            ack_lost: 0,
            ack_late: 0,
            ack_twice: 0,
            ack_unknown: 0,
            refused: 0,
            unheard: None,
            poison_every: self.poison_every,
            forbidden: None,
            forbidden_every: 0,
            preferred_away: None,
            broker_loses: 0,
            watermark_wrong: 0,
            recalls: 0,
            inference_fails: 0,
            inference_hangs: 0,
            wall_steps: 0,
            sample_late: 0,
            sample_lost: 0,
            bad_sensors: vec![Vec::new(); self.bad_sensors.len()],
        }
    }
}
