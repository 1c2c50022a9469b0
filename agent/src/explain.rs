//! `quorate vote explain`: why a vote is what it is, in a form that people read.
//!
//! Owns: the words. Must not: compute anything; the core says what it found.

use std::io::{self, Write};

use quorate_core::{
    agent::Explanation,
    config::{Config, QuantityConfig},
    vote::{ChannelView, Doubt, Quality, Reason, Verdict, VoteView},
};

/// Writes one quantity's vote and the numbers behind it.
///
/// # Errors
/// The output fails.
pub fn write(
    config: &Config,
    quantity: &QuantityConfig,
    explanation: &Explanation,
    output: &mut impl Write,
) -> io::Result<()> {
    let vote = &explanation.vote;
    let value = match (vote.value, vote.uncertainty) {
        (Some(value), Some(uncertainty)) => format!("{value:.6} ± {uncertainty:.6}"),
        (Some(value), None) => value.to_string(),
        (None, _) => "no value".into(),
    };
    let unit = match quantity.label(vote.value) {
        Some(label) => format!(" ({label})"),
        None if quantity.unit == "1" => String::new(),
        None => format!(" {}", quantity.unit),
    };
    writeln!(
        output,
        "{} at {} ms: {value}{unit}, {}, {} of {} sensors",
        quantity.id,
        explanation.tick.0,
        vote.quality.as_str(),
        vote.used,
        vote.verdicts.len()
    )?;
    if let Some(whole) = &explanation.whole {
        write_whole(whole, output)?;
    }
    let names = quantity
        .sensors
        .iter()
        .map(|id| config.sensors[id.index()].id.as_str());
    let width = names.clone().map(str::len).max().unwrap_or(0).max(6);
    if !explanation.channels.is_empty() {
        writeln!(
            output,
            "  {:width$} {:>14} {:>12} {:>12} {:>11} {:>9} {:>7}  state",
            "sensor", "value", "offset", "residual", "deviation", "evidence", "weight"
        )?;
    }
    for (index, (name, verdict)) in names.zip(&vote.verdicts).enumerate() {
        match explanation.channels.get(index) {
            Some(view) => write_channel(name, width, view, verdict, output)?,
            None => writeln!(output, "  {name:width$} {}", standing(verdict))?,
        }
    }
    writeln!(output, "  {}", conclusion(quantity, explanation))
}

fn write_whole(whole: &VoteView, output: &mut impl Write) -> io::Result<()> {
    if let Some(reference) = whole.reference {
        writeln!(
            output,
            "  reference {reference:.6}: the median of the trusted sensors, each less its offset"
        )?;
    }
    if whole.commissioning {
        writeln!(
            output,
            "  still commissioning: offsets and noise are being learned"
        )?;
    }
    if whole.doubt {
        writeln!(
            output,
            "  too few sensors bear out the offsets that were learned at start"
        )?;
    }
    if whole.split {
        writeln!(
            output,
            "  split: two sensors disagree and neither can be blamed"
        )?;
    }
    Ok(())
}

fn write_channel(
    name: &str,
    width: usize,
    view: &ChannelView,
    verdict: &Verdict,
    output: &mut impl Write,
) -> io::Result<()> {
    let number = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.6}"));
    let held = if view.value.is_some() && !view.fresh {
        " (held)"
    } else {
        ""
    };
    writeln!(
        output,
        "  {name:width$} {:>14} {:>+12.6} {:>12} {:>11.6} {:>9.2} {:>5.1} %  {}{held}",
        number(view.value),
        view.offset,
        number(view.residual),
        view.deviation,
        view.evidence,
        view.share * 100.0,
        standing(verdict)
    )
}

fn standing(verdict: &Verdict) -> String {
    match verdict.reason {
        Some(reason) => format!("{}: {}", verdict.state.as_str(), sentence(reason)),
        None if verdict.included => verdict.state.as_str().into(),
        None => format!("{}: not in this value", verdict.state.as_str()),
    }
}

/// What a reason means.
const fn sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::NoData => "no-data, it has delivered nothing",
        Reason::Timeout => "timeout, its last value is too old",
        Reason::SensorError => "sensor-error, the probe reported an error",
        Reason::Stuck => "stuck, it does not move while its siblings do",
        Reason::OutOfRange => "out-of-range, beyond what is physically possible",
        Reason::NotANumber => "not-a-number",
        Reason::Spike => "spike, this sample is far from its siblings",
        Reason::Bias => "bias, a lasting difference arose at once",
        Reason::Drift => "drift, a lasting difference grew slowly",
        Reason::Noisy => "noisy, far noisier than it was",
        Reason::Disagree => "disagree, its siblings contradict it",
        Reason::BootOffset => {
            "boot-offset, its siblings do not bear out the offset that it began with"
        }
        Reason::Device => "device, another axis of its device is isolated",
    }
}

fn conclusion(quantity: &QuantityConfig, explanation: &Explanation) -> String {
    let vote = &explanation.vote;
    let isolated = vote
        .verdicts
        .iter()
        .filter(|it| it.state.is_isolated())
        .count();
    match vote.quality {
        Quality::Bad => format!(
            "no value: fewer than {} sensors are believed and nothing may be held any longer",
            quantity.sources_min
        ),
        Quality::Uncertain => match vote.doubt {
            Some(Doubt::Held) => format!(
                "held: the sensors last bore a value {} ms ago; it grows less certain until {} ms",
                quantity.held_ms(vote).unwrap_or(0),
                quantity.hold_age_ms_max
            ),
            Some(Doubt::Single) => "a single sensor: nothing speaks for or against it".into(),
            Some(Doubt::Split) => "split: the sensors disagree and none can be blamed".into(),
            Some(Doubt::StandIns) => "no trusted sensor delivers: isolated ones stand in".into(),
            Some(Doubt::Unproven) | None => {
                "nobody bears out what was learned of the sensors at start".into()
            }
        },
        Quality::Degraded => format!(
            "the value rests on {} sensors; {isolated} isolated, {} left out at this tick",
            vote.used,
            vote.verdicts.len().saturating_sub(vote.used + isolated)
        ),
        Quality::Good => "every sensor is in the value and they agree".into(),
    }
}
