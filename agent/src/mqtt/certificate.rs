//! Until when a certificate is good.
//!
//! Owns: as much of X.509 (RFC 5280, section 4.1) as that takes. Must not: decide whom to trust; rustls does, and what is
//! read here is shown and nothing else. Pure.
//!
//! Invariant: whatever bytes come, the answer is a time or none.

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// What is left of a run of DER values.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The next value: its tag and what is in it.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            // Four bytes are more than any file that is read here has.
            let count = usize::from(first & 0x7f);
            let digits = (1..=4).contains(&count).then(|| rest.get(..count))??;
            rest = rest.get(count..)?;
            length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
        }
        let value = rest.get(..length)?;
        self.0 = rest.get(length..)?;
        Some((tag, value))
    }

    /// The next value, which has this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, value)| value)
    }
}

/// `notAfter` of a certificate in DER, in milliseconds since 1970.
pub(super) fn not_after_unix_ms(der: &[u8]) -> Option<i64> {
    let certificate = Values(der).expect(SEQUENCE)?;
    let mut fields = Values(Values(certificate).expect(SEQUENCE)?);
    let (tag, _) = fields.next()?;
    if tag == VERSION {
        fields.expect(INTEGER)?;
    }
    // Algorithm and issuer.
    fields.expect(SEQUENCE)?;
    fields.expect(SEQUENCE)?;
    let mut validity = Values(fields.expect(SEQUENCE)?);
    validity.next()?;
    let (tag, text) = validity.next()?;
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.is_ascii())?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year: u16 = text.get(..2)?.parse().ok()?;
            // RFC 5280, section 4.1.2.5.1.
            (year + if year < 50 { 2000 } else { 1900 }, text.get(2..)?)
        }
        GENERALIZED_TIME => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let two = |at: usize| rest.get(at..at + 2);
    let (month, day, hour) = (two(0)?, two(2)?, two(4)?);
    let (minute, second) = (two(6)?, two(8)?);
    let time = format!("{year:04}-{month}-{day}T{hour}:{minute}:{second}Z");
    let time: jiff::Timestamp = time.parse().ok()?;
    (rest.get(10..) == Some("Z")).then(|| time.as_millisecond())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(vec!["broker".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 3, 4);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        // Up to 2049 a certificate has two digits for the year, from 2050 on four.
        assert_eq!(
            not_after_unix_ms(&certificate(2049)),
            Some(2_498_428_800_000)
        );
        assert_eq!(
            not_after_unix_ms(&certificate(2050)),
            Some(2_529_964_800_000)
        );
    }

    #[test]
    fn a_certificate_that_is_cut_has_no_time_or_the_same() {
        let whole = certificate(2049);
        for end in 0..whole.len() {
            assert_eq!(not_after_unix_ms(&whole[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_cause_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = not_after_unix_ms(&bytes);
        }

        #[test]
        fn no_change_of_a_certificate_causes_harm(at in 0_usize..200, byte: u8) {
            let mut changed = certificate(2049);
            changed[at] = byte;
            let _ = not_after_unix_ms(&changed);
        }
    }
}
