//! A vote does not allocate: counted by an allocator of this test's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's obligations are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[cfg(test)]
mod tests {
    use super::ALLOCATIONS;
    use quorate_core::vote::{Reading, Reason, Vote, Voter, VoterConfig};

    fn allocations() -> u64 {
        ALLOCATIONS.with(std::cell::Cell::get)
    }

    #[test]
    fn a_vote_does_not_allocate() {
        for channels in [1, 2, 3, 5, 32] {
            let mut voter = Voter::new(VoterConfig::new(channels));
            let mut vote = Vote::empty(channels);
            let mut random = fastrand::Rng::with_seed(1);
            let mut readings = vec![Reading::fresh(0.0); channels];
            let before = allocations();
            for tick in 0..2000 {
                for reading in &mut readings {
                    *reading = Reading::fresh(20.0 + random.f64());
                }
                if tick % 300 > 200 {
                    readings[0] = Reading::fresh(50.0 + 9.0 * random.f64());
                }
                if tick % 400 > 350 {
                    readings[channels - 1] = Reading::absent(Reason::Timeout);
                }
                voter.vote(&readings, &mut vote);
            }
            assert_eq!(allocations() - before, 0, "{channels} channels");
        }
    }

    /// The count would see one.
    #[test]
    fn the_counter_counts() {
        let before = allocations();
        let made = std::hint::black_box(vec![1_u8; 64]);
        assert!(allocations() > before && made.len() == 64);
    }
}
