//! The place of the outbox: whether it may be written, survives a power cut, and has the space that it may take.
//!
//! Owns: what the file system says. Must not: open the store; a running agent holds it.

use std::path::Path;

use super::Finding;
use crate::{outbox_look::check_place, settings::Settings, store};

/// File systems that forget everything at a power cut (linux/magic.h).
const VOLATILE: [(u64, &str); 3] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay, perhaps in memory"),
];

/// Examines the place of the configured outbox.
pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let Some(outbox) = &settings.outbox else {
        return vec![Finding::problem(
            "store",
            "no outbox is configured, so nothing can be kept",
            "add [outbox] with a path on a durable medium",
        )];
    };
    let path = outbox.path.as_path();
    let named = |what: &str| format!("{}: {what}", path.display());
    let mut findings = Vec::new();
    if let Err(refusal) = check_place(path) {
        findings.push(Finding::problem(
            "store",
            refusal.to_string(),
            "give another path, move what lies there, or give the agent's user the folder",
        ));
    }
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    if let Some(existing) = existing.filter(|existing| existing.is_dir()) {
        findings.extend(medium(existing, &named));
        findings.extend(space(existing, outbox.size_bytes_max, &named));
    }
    findings
}

fn medium(existing: &Path, named: &impl Fn(&str) -> String) -> Option<Finding> {
    let kind = rustix::fs::statfs(existing).ok()?;
    // The field has another width on some targets; the magic numbers have 32 bits.
    let magic = u64::try_from(kind.f_type).ok()? & 0xffff_ffff;
    let volatile = VOLATILE.iter().find(|(number, _)| *number == magic);
    volatile.map(|(_, name)| {
        Finding::warning(
            "store",
            named(&format!(
                "lies on {name}: a power cut loses what is not delivered"
            )),
            "put it on a partition of a card or a disk",
        )
    })
}

fn space(existing: &Path, size_bytes_max: u64, named: &impl Fn(&str) -> String) -> Option<Finding> {
    let free = store::free_bytes(existing).ok()?;
    let (free_mib, most_mib) = (free >> 20, size_bytes_max >> 20);
    Some(if free < size_bytes_max {
        Finding::warning(
            "store",
            named(&format!(
                "{free_mib} MiB are free, and it may take {most_mib} MiB"
            )),
            "lower outbox.size_max or make room; a full disk is survived, but drops what on_full says",
        )
    } else {
        Finding::ok("store", named(&format!("{free_mib} MiB are free")))
    })
}
