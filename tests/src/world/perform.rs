//! The second interpreter of the core's actions: what a deed leads to in the world.

use std::sync::Arc;

use quorate_core::{
    event::{
        Action, Event, GoneCause, InferenceFault, StoreFault, StoreReport, StoredRecord, Worker,
    },
    model::Lane,
    record::{self, Body, Occurrence, Record},
    units::{BatchId, ModelId, Mono, SensorId, Seq, WallAnchor},
};

use super::{Pending, World, disk::Note, faults::chance, plant, receiver, sabotage::Sabotage};
use crate::checkers::{self, Check};

/// 2026-11-24T00:00:00Z.
const WALL_UNIX_MS: i64 = 1_795_478_400_000;

impl World {
    pub(crate) fn perform(&mut self, action: Action) -> Check {
        self.trace.action(self.now_ms, &action);
        self.watch.asked(self.now_ms, &action);
        self.outcome.actions += 1;
        match action {
            Action::Poll { sensor, .. } => self.poll(sensor),
            Action::Infer {
                model, lane, tick, ..
            } => self.infer(model, lane, tick),
            Action::Store { record } => self.store(&record)?,
            Action::Load {
                after,
                through,
                records_max,
                bytes_max,
            } => {
                let delay_ms = self.random.u64(1..=20);
                let fails = chance(&mut self.random, self.mix.load_fails);
                let event = if fails {
                    Event::LoadFailed {
                        fault: input_output(),
                    }
                } else {
                    let records = self.disk.load(after, through, records_max, bytes_max);
                    Event::Loaded {
                        after,
                        through,
                        records,
                    }
                };
                self.tell_later(delay_ms, event);
            }
            Action::Publish {
                batch,
                records,
                standing,
            } => {
                self.check_sending(&records, standing.historical)?;
                self.check_standing(&records, standing)?;
                if self.options.sabotage == Sabotage::ForgetBeforeAck {
                    for record in &records {
                        self.forget(record.seq, record.seq)?;
                    }
                }
                self.publish(batch, records)?;
            }
            Action::Forget { first, last } => self.forget(first, last)?,
            Action::Discard { first, last } => {
                let gone: Vec<_> = self.disk.live(first, last).collect();
                for seq in gone {
                    let life = self.life(seq);
                    checkers::refused_before_discard(seq, life)?;
                    life.discarded = true;
                }
                if let Some(note) = self.disk.discard(first, last) {
                    self.tell_gone(note);
                }
                self.outcome.discarded += 1;
            }
            // Nobody gives commands here.
            Action::Recall { .. }
            | Action::Recover { .. }
            | Action::Execute { .. }
            | Action::ModelStep { .. }
            | Action::Reopen { .. }
            | Action::Reply { .. }
            | Action::Settled { .. }
            | Action::Restart => {}
            Action::Settle { first, last, cause } => self.disk.settle(first, last, cause),
            Action::Checkpoint(checkpoint) => {
                // Written in one piece beside the outbox, or not at all.
                if !chance(&mut self.random, self.mix.commit_fails) {
                    self.checkpoint = Some(checkpoint);
                }
            }
            Action::Connect { broker } => self.connect(broker),
            Action::Disconnect { .. } => self.disconnect(),
            Action::StrokeWatchdog => {
                self.watch
                    .stroke(self.now_ms, self.config.vitals.stall_ms)?;
            }
        }
        Ok(())
    }

    pub(crate) fn note_dropped(&mut self, (first, last, _, cause): Note) {
        for seq in first.0..=last.0 {
            self.life(Seq(seq)).dropped |= cause == GoneCause::Full;
        }
    }

    pub(crate) fn tell_gone(&mut self, (first, last, count, cause): Note) {
        let event = Event::RecordsGone {
            first,
            last,
            count,
            cause,
        };
        self.tell_later(0, event);
    }

    fn forget(&mut self, first: quorate_core::units::Seq, last: quorate_core::units::Seq) -> Check {
        let forgotten: Vec<_> = self.disk.live(first, last).collect();
        for seq in forgotten {
            let confirms = self.confirms();
            let life = self.life(seq);
            checkers::taken_before_forget(seq, life)?;
            checkers::confirmed_before_forget(seq, life, confirms)?;
        }
        if self.options.sabotage != Sabotage::KeepsDelivered {
            self.disk.delete(first, last);
        }
        Ok(())
    }

    fn poll(&mut self, sensor: SensorId) {
        let (quantity, channel) = (
            sensor.index() / plant::CHANNELS,
            sensor.index() % plant::CHANNELS,
        );
        let now_ms = self.now_ms;
        let bad = self.mix.bad_sensors[quantity]
            .iter()
            .find(|bad| bad.channel == channel && bad.window.is_open(now_ms))
            .copied();
        if chance(&mut self.random, self.mix.sample_lost) {
            return;
        }
        let late = chance(&mut self.random, self.mix.sample_late);
        let Some(mut answer) = plant::sample(&mut self.random, quantity, bad.as_ref(), now_ms)
        else {
            return;
        };
        if late {
            let late_ms = self.random.u64(100..=2_500);
            answer.delay_ms += late_ms;
            answer.taken_before_ms += late_ms;
        }
        let taken =
            self.mono_at(now_ms + answer.delay_ms - answer.taken_before_ms.min(answer.delay_ms));
        let event = Event::Sample {
            sensor,
            taken,
            value: answer.value,
        };
        self.tell_later(answer.delay_ms, event);
    }

    fn infer(&mut self, model: ModelId, lane: Lane, tick: Mono) {
        if chance(&mut self.random, self.mix.inference_hangs) {
            let event = Event::WorkerDied {
                worker: Worker::Inference,
                cause: "hung".into(),
            };
            let delay_ms = self.random.u64(5_000..=100_000);
            self.tell_later(delay_ms, event);
            return;
        }
        let outcome = if chance(&mut self.random, self.mix.inference_fails) {
            match self.random.u32(0..3) {
                0 => Err(InferenceFault {
                    cause: "panicked",
                    detail: String::new(),
                }),
                1 => Ok(vec![0.5, 0.5]),
                _ => Ok(vec![f32::NAN]),
            }
        } else {
            Ok(vec![self.random.f32()])
        };
        let delay_ms = self.random.u64(1..=200);
        self.tell_later(
            delay_ms,
            Event::Inferred {
                model,
                lane,
                tick,
                took_us: delay_ms * 1_000,
                outcome,
            },
        );
    }

    fn store(&mut self, record: &Arc<Record>) -> Check {
        let mut stored = record::encode(&self.config, record);
        if self.options.sabotage == Sabotage::BelievesTheClock {
            stored.payload = receiver::dated_1970(&stored.payload);
        }
        self.trace.bytes(&stored.payload);
        if self.options.sabotage == Sabotage::PublishBeforeStore && self.network.up {
            self.publish(BatchId(u64::MAX), vec![stored.clone()])?;
        }
        if self.disk.put(stored) {
            let gather_ms = self.random.u64(1..=20);
            self.here(gather_ms, |boot| Pending::CommitBegins { boot });
        }
        Ok(())
    }

    pub(crate) fn begin_commit(&mut self) {
        self.disk.begin();
        let mut sync_ms = self.random.u64(1..=40);
        if chance(&mut self.random, self.mix.commit_slow) {
            sync_ms = self.random.u64(40..=2_000);
        }
        if self.random.u32(0..1_000_000) < self.mix.commit_hangs_ppm {
            sync_ms = self.random.u64(20_000..=100_000);
        }
        self.here(sync_ms, |boot| Pending::CommitEnds { boot });
    }

    pub(crate) fn end_commit(&mut self) -> Check {
        let full = self
            .mix
            .disk_full
            .is_some_and(|window| window.is_open(self.now_ms));
        let fails = full || chance(&mut self.random, self.mix.commit_fails);
        let arrives = !full && chance(&mut self.random, self.mix.commit_arrives_though_failed);
        let commit = self.disk.finish(fails, arrives, self.options.sabotage);
        self.make_durable(&commit.durable);
        if self.disk.has_waiting() {
            let gather_ms = self.random.u64(1..=20);
            self.here(gather_ms, |boot| Pending::CommitBegins { boot });
        } else {
            self.disk.busy = false;
        }
        for (first, last) in commit.runs {
            let event = if fails {
                let cause = if full { "full" } else { "input-output" };
                let fault = StoreFault {
                    cause,
                    ..input_output()
                };
                Event::StoreFailed { first, last, fault }
            } else {
                Event::Stored { first, last }
            };
            self.tell_later(0, event);
        }
        if let Some(note) = commit.gone {
            self.outcome.dropped += note.2;
            self.note_dropped(note);
            self.tell_gone(note);
        }
        let report = StoreReport {
            pending: self.disk.pending(),
            ..StoreReport::default()
        };
        self.tell_later(0, Event::StoreReport(report));
        Ok(())
    }

    pub(crate) fn make_durable(&mut self, records: &[StoredRecord]) {
        let now_ms = self.now_ms;
        for record in records {
            let life = self.life(record.seq);
            if life.durable.is_none() {
                life.durable = Some(Arc::clone(&record.payload));
                life.durable_ms = now_ms;
            }
        }
    }

    /// What the wall clock says: 1970 until it is synchronised, then the truth but for steps.
    pub(crate) fn read_wall(&mut self) -> Check {
        let up_ms = self.now_ms - self.period.origin_ms;
        let synced = up_ms > self.wall_sync_ms;
        if chance(&mut self.random, self.mix.wall_steps) {
            // Two hours, or years: back before the first release, or into another decade.
            let most_ms = [7_200_000, 400_000_000_000][self.random.usize(0..2)];
            self.wall_offset_ms = self.random.i64(-most_ms..=most_ms);
        }
        let base = if synced {
            WALL_UNIX_MS + self.wall_offset_ms
        } else {
            0
        };
        let anchor = WallAnchor {
            mono: self.mono(),
            unix_ms: base.saturating_add_unsigned(if synced { self.now_ms } else { up_ms }),
            synced,
        };
        self.here(60_000, |boot| Pending::Wall { boot });
        self.deliver(Event::Wall(anchor))
    }

    /// What a broken world makes of the agent's actions before anyone sees them.
    pub(crate) fn sabotage(&self, actions: &mut Vec<Action>) {
        let sabotage = self.options.sabotage;
        match sabotage {
            Sabotage::DeafWatchdog => actions.retain(|action| *action != Action::StrokeWatchdog),
            Sabotage::BlindWatchdog
                if self.watch.debt_ms(self.now_ms) > self.config.vitals.stall_ms =>
            {
                actions.push(Action::StrokeWatchdog);
            }
            Sabotage::BlindWatchdog => {}
            Sabotage::TwistedVote
            | Sabotage::RepeatedTick
            | Sabotage::SkippedTick
            | Sabotage::SilentDiscard => {
                for action in actions {
                    if let Action::Store { record } = action {
                        self.twist(record);
                    }
                }
            }
            _ => {}
        }
    }

    fn twist(&self, record: &mut Arc<Record>) {
        let sabotage = self.options.sabotage;
        let chosen = record.seq.0 % 50 == 3;
        match &record.body {
            Body::Vote { quantity, .. } if chosen => {
                let period_ms = self.config.quantities[quantity.index()].period_ms;
                let changed = Arc::make_mut(record);
                match (&mut changed.body, sabotage) {
                    (Body::Vote { vote, .. }, Sabotage::TwistedVote) => {
                        vote.value = vote.value.map(|value| value + 10.0);
                    }
                    (_, Sabotage::RepeatedTick) => {
                        changed.stamp.mono = Mono(changed.stamp.mono.0.saturating_sub(period_ms));
                    }
                    (body, Sabotage::SkippedTick) => *body = Body::Event(Occurrence::default()),
                    _ => {}
                }
            }
            Body::Event(event)
                if sabotage == Sabotage::SilentDiscard && event.what == "records-gone" =>
            {
                Arc::make_mut(record).body = Body::Event(Occurrence::default());
            }
            _ => {}
        }
    }
}

fn input_output() -> StoreFault {
    StoreFault {
        cause: "input-output",
        detail: String::new(),
    }
}
