//! Commands as the agent carries them out.
//!
//! Owns: what each command does in the core, and what is written down of it. Must not: check who asks; see
//! [`crate::command`].

use alloc::{format, string::String, vec::Vec};

use super::Agent;
use crate::{
    command::{
        self, CommandEvent, CommandId, Deed, Outcome, RESULT_BYTES_MAX, Refused, ReplyTo, Request,
        Stage,
    },
    event::Action,
    record::Occurrence,
    sensor::Sensor,
    units::{Mono, SensorId, Seq},
};

impl Agent {
    pub(super) fn take_command_event(
        &mut self,
        now: Mono,
        event: CommandEvent,
        actions: &mut Vec<Action>,
    ) {
        match event {
            CommandEvent::Given(request) => self.take_command(now, request, actions),
            CommandEvent::Refused { reason, reply } => {
                self.refuse_command(now, reason, reply, actions);
            }
            CommandEvent::Done { id, outcome } => self.conclude_command(now, id, outcome, actions),
            CommandEvent::Interrupted { command, detail } => {
                self.tell_interrupted(now, command, detail, actions);
            }
            CommandEvent::Subscribed { accepted } => {
                self.take_subscription(now, accepted, actions);
            }
        }
    }

    pub(super) fn take_stored(
        &mut self,
        now: Mono,
        (first, last): (Seq, Seq),
        actions: &mut Vec<Action>,
    ) {
        // A record that was dropped is in no commit, though its number may lie in the range of one.
        let stored: Vec<_> = self
            .commands
            .awaited()
            .filter(|seq| (first..=last).contains(seq) && self.outbox.awaits(*seq))
            .collect();
        self.counters.records_stored += self.outbox.stored(now, first, last);
        self.note_lost();
        for seq in stored {
            self.go_on_with_commands(now, seq, actions);
        }
    }

    /// Somebody entitled asks for something: first of all that is written down.
    fn take_command(&mut self, now: Mono, request: Request, actions: &mut Vec<Action>) {
        let refused = if self.commands.is_full() {
            Refused::Busy
        } else {
            let occurrence = Occurrence {
                what: "command-accepted",
                subject: request.deed.name().into(),
                detail: Some(command::who(&request, true)),
                ..Occurrence::default()
            };
            if let Some(seq) = self.tell_seq(now, occurrence, actions) {
                self.counters.commands_accepted += 1;
                self.commands.accept(now, request, seq);
                return;
            }
            Refused::NotStored
        };
        actions.push(Action::Settled {
            key: request.key,
            counter: request.counter,
        });
        self.refuse_command(now, refused, request.reply, actions);
    }

    /// Somebody asked for something that is not done.
    fn refuse_command(
        &mut self,
        now: Mono,
        reason: Refused,
        reply: Option<ReplyTo>,
        actions: &mut Vec<Action>,
    ) {
        self.counters.commands_refused[reason.index()] += 1;
        let (told, answered) = self.commands.refuse(now);
        if told {
            let occurrence = Occurrence {
                what: "command-refused",
                reason: Some(reason.as_str()),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
        if let Some(to) = reply.filter(|_| answered) {
            let payload = command::refusal(&self.config.device, reason);
            actions.push(Action::Reply { to, payload });
        }
    }

    /// A command of the last run has no outcome: nobody knows how far it came.
    fn tell_interrupted(
        &mut self,
        now: Mono,
        command: String,
        detail: String,
        actions: &mut Vec<Action>,
    ) {
        let occurrence = Occurrence {
            what: "command-interrupted",
            subject: command,
            detail: Some(detail),
            ..Occurrence::default()
        };
        self.tell(now, occurrence, actions);
    }

    /// The broker's answer to the subscription.
    fn take_subscription(&mut self, now: Mono, accepted: bool, actions: &mut Vec<Action>) {
        let state = if accepted { "listening" } else { "refused" };
        // That they can come again after every new connection is no news.
        if self.command_state == state || (accepted && self.command_state != "refused") {
            self.command_state = state;
            return;
        }
        let occurrence = Occurrence {
            what: "commands",
            from: Some(self.command_state),
            to: Some(state),
            ..Occurrence::default()
        };
        self.command_state = state;
        self.tell(now, occurrence, actions);
    }

    /// A record became durable: what waited for it goes on.
    fn go_on_with_commands(&mut self, now: Mono, seq: Seq, actions: &mut Vec<Action>) {
        match self.commands.waiting_for(seq) {
            None => {}
            Some((id, true)) => self.answer_command(id, actions),
            Some((id, false)) => {
                if let Some(deed) = self.commands.begin(now, id) {
                    self.execute(now, id, deed, actions);
                }
            }
        }
    }

    fn execute(&mut self, now: Mono, id: CommandId, deed: Deed, actions: &mut Vec<Action>) {
        match deed {
            Deed::Ping => {
                let uptime_ms = now.since_ms(self.started);
                let result = Ok(format!("{{\"uptime_ms\":{uptime_ms}}}"));
                self.conclude_command(now, id, result, actions);
            }
            Deed::Replay { epoch, first, last } => {
                if epoch == self.epoch {
                    actions.push(Action::Recall { first, last });
                } else {
                    self.conclude_command(now, id, Err("wrong-epoch"), actions);
                }
            }
            Deed::SensorReset { sensor } => {
                let outcome = self.reset_sensor(now, &sensor, actions);
                self.conclude_command(now, id, outcome, actions);
            }
            Deed::Status
            | Deed::ConfigGet
            | Deed::LogLevel(_)
            | Deed::Restart { .. }
            | Deed::Model(_) => {
                actions.push(Action::Execute { id, deed });
            }
        }
    }

    fn reset_sensor(&mut self, now: Mono, name: &str, actions: &mut Vec<Action>) -> Outcome {
        let position = self
            .config
            .sensors
            .iter()
            .position(|sensor| sensor.id == name);
        let Some(index) = position else {
            return Err("unknown-sensor");
        };
        let sensor = SensorId(u16::try_from(index).expect("the number of sensors is validated"));
        self.sensors[index] = Sensor::new(self.config.sensors[index].range);
        let mut channels = 0;
        for quantity in &mut self.quantities {
            channels += quantity.forget(sensor);
        }
        self.guards.forget(now, sensor);
        actions.push(Action::Reopen { sensor });
        Ok(format!("{{\"channels\":{channels}}}"))
    }

    /// The store has answered a recall: the replays that asked for it are done.
    pub(super) fn conclude_replays(
        &mut self,
        now: Mono,
        range: (Seq, Seq),
        count: u64,
        actions: &mut Vec<Action>,
    ) {
        for id in self.commands.replaying(range) {
            let result = Ok(format!("{{\"records\":{count}}}"));
            self.conclude_command(now, id, result, actions);
        }
    }

    /// A command was carried out, or could not be: that is written down before it is told.
    fn conclude_command(
        &mut self,
        now: Mono,
        id: CommandId,
        outcome: Outcome,
        actions: &mut Vec<Action>,
    ) {
        let Some(request) = self.commands.executing(id) else {
            return;
        };
        let outcome = outcome.and_then(|result| {
            let fits = result.len() <= RESULT_BYTES_MAX;
            if fits { Ok(result) } else { Err("too-large") }
        });
        let occurrence = Occurrence {
            what: "command-done",
            subject: request.deed.name().into(),
            to: Some(if outcome.is_ok() { "done" } else { "failed" }),
            reason: outcome.as_ref().err().copied(),
            detail: Some(command::who(request, false)),
            ..Occurrence::default()
        };
        if outcome.is_ok() {
            self.counters.commands_done += 1;
        } else {
            self.counters.commands_failed += 1;
        }
        let told = self.tell_seq(now, occurrence, actions);
        // Without room for the record the answer need not wait for it.
        self.commands
            .conclude(now, id, told.unwrap_or(Seq(0)), outcome);
        if told.is_none() {
            self.answer_command(id, actions);
        }
    }

    fn answer_command(&mut self, id: CommandId, actions: &mut Vec<Action>) {
        let Some(ended) = self.commands.end(id) else {
            return;
        };
        let Stage::Concluding(_, outcome) = ended.stage else {
            return;
        };
        let request = ended.request;
        let payload = command::reply(&self.config.device, &request, &outcome);
        if let Some(to) = request.reply {
            actions.push(Action::Reply { to, payload });
        }
        actions.push(Action::Settled {
            key: request.key,
            counter: request.counter,
        });
        if matches!(request.deed, Deed::Restart { .. }) && outcome.is_ok() {
            actions.push(Action::Restart);
        }
    }

    /// What takes too long fails; refusals that were not written down are.
    pub(super) fn advance_commands(&mut self, now: Mono, actions: &mut Vec<Action>) {
        for (id, stage) in self.commands.overdue(now) {
            match stage {
                // Never carried out: nobody expects it any more.
                Stage::Accepting(_) => {
                    if let Some(ended) = self.commands.end(id) {
                        let Request { key, counter, .. } = ended.request;
                        actions.push(Action::Settled { key, counter });
                        let reply = ended.request.reply;
                        self.refuse_command(now, Refused::NotStored, reply, actions);
                    }
                }
                Stage::Executing => self.conclude_command(now, id, Err("timeout"), actions),
                Stage::Concluding(..) => self.answer_command(id, actions),
            }
        }
        if let Some(count) = self.commands.untold_refusals(now) {
            let occurrence = Occurrence {
                what: "command-refused",
                reason: Some("repeatedly"),
                detail: Some(format!("{count} more")),
                ..Occurrence::default()
            };
            self.tell(now, occurrence, actions);
        }
    }

    /// The sequence number of what was told, where there was room for it.
    fn tell_seq(
        &mut self,
        now: Mono,
        occurrence: Occurrence,
        actions: &mut Vec<Action>,
    ) -> Option<Seq> {
        let seq = self.outbox.seq_next();
        self.tell(now, occurrence, actions);
        (self.outbox.seq_next() != seq).then_some(seq)
    }
}

#[cfg(test)]
mod tests {
    use alloc::{string::ToString, vec, vec::Vec};

    use crate::{
        agent::Agent,
        command::{
            COMMANDS_MAX, CommandEvent, CommandId, Deed, LogLevel, ReplyTo, Request, STAGE_MS_MAX,
        },
        config::{Config, GuardConfig, OutboxConfig, Recovered, SensorConfig, VitalsConfig},
        event::{Action, Event, StoreFault},
        record::Body,
        units::{BootId, Epoch, Mono, Seq},
    };

    struct Bench {
        agent: Agent,
        now: Mono,
    }

    fn bench() -> Bench {
        let config = Config {
            device: "press-07".into(),
            status_codes: false,
            sensors: vec![SensorConfig {
                id: "a".into(),
                range: None,
                device: None,
            }],
            quantities: Vec::new(),
            models: Vec::new(),
            outbox: OutboxConfig::default(),
            link: None,
            vitals: VitalsConfig::default(),
            guard: GuardConfig::default(),
        };
        let recovered = Recovered {
            epoch: Epoch(3),
            seq_next: Seq(1),
            boot: BootId([0; 16]),
            seed: 7,
        };
        Bench {
            agent: Agent::recover(config, recovered, Mono(0)),
            now: Mono(0),
        }
    }

    fn request(deed: Deed, counter: u64) -> Event {
        Event::Command(CommandEvent::Given(Request {
            deed,
            key: Some("ops-1".into()),
            counter,
            arguments: "{}".into(),
            reply: Some(ReplyTo {
                topic: "ops".into(),
                correlation: Some(vec![1]),
            }),
        }))
    }

    impl Bench {
        fn handle(&mut self, event: Event) -> Vec<Action> {
            let mut actions = Vec::new();
            self.agent.handle(self.now, event, &mut actions);
            actions.retain(|action| !matches!(action, Action::StrokeWatchdog));
            actions
        }

        fn stored(&mut self, seq: u64) -> Vec<Action> {
            let (first, last) = (Seq(seq), Seq(seq));
            self.handle(Event::Stored { first, last })
        }
    }

    /// The records that are to be stored, as `what` and number.
    fn told(actions: &[Action]) -> Vec<(&'static str, u64)> {
        let event = |action: &Action| match action {
            Action::Store { record } => match &record.body {
                Body::Event(occurrence) => Some((occurrence.what, record.seq.0)),
                _ => None,
            },
            _ => None,
        };
        actions.iter().filter_map(event).collect()
    }

    fn answer(actions: &[Action]) -> Option<serde_json::Value> {
        let payload = actions.iter().find_map(|action| match action {
            Action::Reply { payload, .. } => Some(payload),
            _ => None,
        })?;
        Some(serde_json::from_str(payload).expect("an answer is JSON"))
    }

    #[test]
    fn it_is_recorded_then_done_then_recorded_then_answered() {
        let mut bench = bench();
        let deed = Deed::LogLevel(LogLevel::Debug);
        let actions = bench.handle(request(deed.clone(), 17));
        assert_eq!(told(&actions), [("command-accepted", 1)]);
        assert_eq!(
            actions.len(),
            1,
            "nothing before it is durable: {actions:?}"
        );
        let id = CommandId(0);
        assert_eq!(bench.stored(1), [Action::Execute { id, deed }]);
        assert_eq!(bench.stored(1), [], "once");
        let outcome = Ok("{}".to_string());
        let actions = bench.handle(Event::Command(CommandEvent::Done { id, outcome }));
        assert_eq!(told(&actions), [("command-done", 2)]);
        assert_eq!(answer(&actions), None, "not before it is durable");
        let actions = bench.stored(2);
        let answer = answer(&actions).expect("an answer");
        assert_eq!(
            (&answer["outcome"], &answer["counter"]),
            (&"done".into(), &17.into())
        );
        let settled = Action::Settled {
            key: Some("ops-1".into()),
            counter: 17,
        };
        assert!(actions.contains(&settled));
        assert_eq!(bench.agent.health(bench.now).counters.commands_done, 1);
    }

    #[test]
    fn a_restart_comes_after_its_answer() {
        let mut bench = bench();
        bench.handle(request(Deed::Restart { force: false }, 1));
        bench.stored(1);
        let (id, outcome) = (CommandId(0), Ok("{}".to_string()));
        bench.handle(Event::Command(CommandEvent::Done { id, outcome }));
        let actions = bench.stored(2);
        let place = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
        let reply = place(|action| matches!(action, Action::Reply { .. }));
        assert!(reply.is_some() && reply < place(|action| *action == Action::Restart));
    }

    #[test]
    fn a_command_that_cannot_be_recorded_is_never_done() {
        let mut bench = bench();
        bench.handle(request(Deed::Restart { force: true }, 1));
        let fault = StoreFault {
            cause: "full",
            detail: "no space".into(),
        };
        let (first, last) = (Seq(1), Seq(1));
        bench.handle(Event::StoreFailed { first, last, fault });
        bench.now = Mono(STAGE_MS_MAX);
        let actions = bench.handle(Event::Tick);
        assert_eq!(answer(&actions).expect("an answer")["reason"], "not-stored");
        assert!(bench.stored(1).is_empty(), "nobody expects it any more");
    }

    #[test]
    fn too_many_at_once_are_refused() {
        let mut bench = bench();
        for counter in 0..COMMANDS_MAX {
            let counter = u64::try_from(counter).expect("small");
            assert_eq!(answer(&bench.handle(request(Deed::Ping, counter))), None);
        }
        let actions = bench.handle(request(Deed::Ping, 99));
        assert_eq!(answer(&actions).expect("an answer")["reason"], "busy");
        assert!(matches!(
            actions[..],
            [Action::Settled { counter: 99, .. }, ..]
        ));
    }

    #[test]
    fn a_replay_recalls_records_of_this_epoch_alone() {
        let mut bench = bench();
        let (first, last) = (Seq(5), Seq(9));
        let replay = |epoch| Deed::Replay {
            epoch: Epoch(epoch),
            first,
            last,
        };
        bench.handle(request(replay(3), 1));
        assert_eq!(bench.stored(1), [Action::Recall { first, last }]);
        let actions = bench.handle(Event::Recalled {
            first,
            last,
            count: 5,
        });
        assert_eq!(
            told(&actions),
            [("records-recalled", 2), ("command-done", 3)]
        );
        bench.stored(2);
        assert_eq!(
            answer(&bench.stored(3)).expect("an answer")["result"]["records"],
            5
        );
        bench.handle(request(replay(4), 2));
        bench.stored(4);
        assert_eq!(
            answer(&bench.stored(5)).expect("an answer")["reason"],
            "wrong-epoch"
        );
    }

    #[test]
    fn a_command_that_is_never_answered_for_fails_in_time() {
        let mut bench = bench();
        bench.handle(request(Deed::Status, 1));
        bench.stored(1);
        assert!(bench.agent.next_deadline() <= Mono(STAGE_MS_MAX));
        bench.now = Mono(STAGE_MS_MAX);
        bench.handle(Event::Tick);
        assert_eq!(
            answer(&bench.stored(2)).expect("an answer")["reason"],
            "timeout"
        );
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_told_twice() {
        use crate::command::{REFUSALS_ANSWERED_MAX, REFUSALS_TOLD_MS, Refused};
        let mut bench = bench();
        let (mut records, mut answers) = (0, 0);
        for _ in 0..1_000 {
            let reply = Some(ReplyTo {
                topic: "ops".into(),
                correlation: None,
            });
            let reason = Refused::Signature;
            let actions = bench.handle(Event::Command(CommandEvent::Refused { reason, reply }));
            records += told(&actions).len();
            answers += u64::from(answer(&actions).is_some());
        }
        assert_eq!((records, answers), (1, REFUSALS_ANSWERED_MAX));
        bench.now = Mono(REFUSALS_TOLD_MS);
        assert_eq!(told(&bench.handle(Event::Tick)).len(), 1);
        let refused = bench.agent.health(bench.now).counters.commands_refused;
        assert_eq!(refused.iter().sum::<u64>(), 1_000);
    }
}
