//! `quorate model audit`: what the monitors of drift of a running agent have seen.
//!
//! Owns: the words. Must not: judge; it shows what the agent's status says, and trusts none of it.

use std::{io::Write, net::SocketAddr};

use serde_json::Value;

use crate::{
    outcome::Outcome,
    status::{self, clean, list, text},
};

/// Prints a line for each input and output of each model.
///
/// # Errors
/// Status 1 when no agent answers there.
pub(super) fn run(address: SocketAddr, json: bool, output: &mut impl Write) -> Result<(), Outcome> {
    let picture = status::ask_json(address, "/api/v1/status").map_err(Outcome::failed)?;
    let models = list(&picture["models"]);
    for model in models {
        if json {
            let one = serde_json::json!({ "model": model["id"], "drift": model["drift"] });
            writeln!(output, "{one}").map_err(Outcome::failed)?;
        } else {
            tell(model, output).map_err(Outcome::failed)?;
        }
    }
    if models.is_empty() {
        writeln!(output, "no models").map_err(Outcome::failed)?;
    }
    Ok(())
}

fn tell(model: &Value, output: &mut impl Write) -> std::io::Result<()> {
    let monitors = list(&model["drift"]);
    let id = text(&model["id"]);
    if monitors.is_empty() {
        return writeln!(output, "model {id}: drift is not watched");
    }
    writeln!(output, "model {id}")?;
    for monitor in monitors {
        let number = |key: &str| {
            monitor[key]
                .as_f64()
                .map_or("?".to_owned(), |number| format!("{number:.4}"))
        };
        let (kind, name, state) = (
            text(&monitor["kind"]),
            text(&monitor["name"]),
            text(&monitor["state"]),
        );
        let (rows, alarms) = (&monitor["rows"], &monitor["alarms"]);
        let block = match monitor["block_rows"].as_u64() {
            Some(block) => format!("blocks of {block} rows"),
            None => "length of its blocks not yet known".to_owned(),
        };
        let index = match monitor["stability_index"].as_f64() {
            Some(index) => format!("stability index {index:.3} against the reference"),
            None => "no reference".to_owned(),
        };
        writeln!(
            output,
            "  {kind} {name}: {state}, {rows} rows, mean {}, deviation {}, {block}, {alarms} alarms, {index}",
            number("mean"),
            number("deviation"),
        )?;
        if let Some(moved) = monitor["moved"].as_str() {
            let direction = if monitor["up"] == true { "up" } else { "down" };
            let ago_s = monitor["since_ms"].as_u64().unwrap_or(0) / 1_000;
            let moved = clean(moved);
            writeln!(
                output,
                "    newest alarm: {moved} {direction}, since {ago_s} s ago; look at the machine, or retrain"
            )?;
        }
    }
    Ok(())
}
