//! Cost of one vote of 3, 5 and 32 channels in steady state, without faults.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fastrand::Rng;
use quorate_core::vote::{Reading, Vote, Voter, VoterConfig};

/// Recorded beforehand so that the generator is not measured.
const TICKS: usize = 4096;

fn vote(criterion: &mut Criterion) {
    for channels in [3, 5, 32] {
        let mut random = Rng::with_seed(1);
        let rows: Vec<Vec<Reading>> = (0..TICKS)
            .map(|_| {
                (0..channels)
                    .map(|_| Reading::fresh(20.0 + random.f64()))
                    .collect()
            })
            .collect();
        let mut voter = Voter::new(VoterConfig::new(channels));
        let mut vote = Vote::empty(channels);
        let mut tick = 0;
        criterion.bench_function(&format!("vote/{channels}"), |bencher| {
            bencher.iter(|| {
                tick = (tick + 1) % TICKS;
                voter.vote(black_box(&rows[tick]), &mut vote);
                black_box(&vote);
            });
        });
    }
}

criterion_group!(benches, vote);
criterion_main!(benches);
