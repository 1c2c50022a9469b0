//! Values with a form of their own: sizes, durations and accuracies.
//!
//! Owns: their grammar. Must not: know where they stand.

/// Bytes from "64 MiB", "1 GB" or "4096".
pub(super) fn size_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "expected a number with B, kB, MB, GB, KiB, MiB or GiB, found `{text}`"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("expected a number and a unit such as `64 MiB`, found `{text}`"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Milliseconds from "90 s", "15 min", "12 h" or "30 d"; at least one minute, at most 100 years.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    let expected = || {
        format!(
            "expected 1 minute to 100 years, as `90 s`, `15 min`, `12 h` or `30 d`, found `{text}`"
        )
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor_ms: u64 = match unit.trim() {
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number
        .checked_mul(factor_ms)
        .filter(|it| (60_000..=36_525 * 86_400_000).contains(it))
        .ok_or_else(expected)
}

/// The absolute and the relative part of "0.5", "20%" or "5 + 20%".
pub(super) fn accuracy(text: &str) -> Result<(Option<f64>, f64), String> {
    let expected = || format!("expected `0.5`, `20%` or `5 + 20%`, found `{text}`");
    let mut absolute = None;
    let mut relative = None;
    for part in text.split('+') {
        let (slot, number, factor) = match part.trim().strip_suffix('%') {
            Some(share) => (&mut relative, share.trim(), 0.01),
            None => (&mut absolute, part.trim(), 1.0),
        };
        let value: f64 = number.parse().map_err(|_| expected())?;
        if !value.is_finite() || value < 0.0 || slot.is_some() {
            return Err(expected());
        }
        *slot = Some(value * factor);
    }
    if absolute.unwrap_or(0.0) + relative.unwrap_or(0.0) <= 0.0 {
        return Err(format!("expected an accuracy above 0, found `{text}`"));
    }
    Ok((absolute, relative.unwrap_or(0.0)))
}

#[cfg(test)]
mod tests {
    use super::{accuracy, duration_ms, size_bytes};

    #[test]
    fn durations() {
        for (text, expected) in [
            ("60s", Some(60_000)),
            ("15 min", Some(900_000)),
            (" 12 h ", Some(43_200_000)),
            ("30 d", Some(2_592_000_000)),
            ("36525 d", Some(3_155_760_000_000)),
            ("36526 d", None),
            ("59 s", None),
            ("30", None),
            ("d", None),
            ("-1 d", None),
            ("99999999999999999999 d", None),
        ] {
            assert_eq!(duration_ms(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(size_bytes(text).ok(), expected, "{text}")
        };
        check("64 MiB", Some(64 << 20));
        check("1GB", Some(1_000_000_000));
        check("4096", Some(4096));
        check("64 MB extra", None);
        check("MiB", None);
        check("-1", None);
        check("99999999999 GiB", None);
    }

    #[test]
    fn accuracies() {
        let check = |text: &str, expected: Option<(Option<f64>, f64)>| {
            assert_eq!(accuracy(text).ok(), expected, "{text}")
        };
        check("0.5", Some((Some(0.5), 0.0)));
        check("20%", Some((None, 0.2)));
        check("5 + 20%", Some((Some(5.0), 0.2)));
        check("5 + 5", None);
        check("0", None);
        check("-1", None);
        check("nan", None);
        check("", None);
    }
}
