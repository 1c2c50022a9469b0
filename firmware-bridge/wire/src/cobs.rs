//! Consistent overhead byte stuffing (Cheshire and Baker, 1999): bytes without a zero, so that a zero ends a frame.
//!
//! Owns the two directions, in fixed memory.

/// Writes the stuffed bytes, without the ending zero. `None` when they do not fit.
pub(crate) fn encode(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut code_at = 0;
    let mut end = 1;
    let mut code: u8 = 1;
    for byte in bytes {
        if *byte != 0 {
            *out.get_mut(end)? = *byte;
            end += 1;
            code += 1;
        }
        if *byte == 0 || code == u8::MAX {
            *out.get_mut(code_at)? = code;
            code_at = end;
            end += 1;
            code = 1;
        }
    }
    *out.get_mut(code_at)? = code;
    Some(end)
}

/// Takes the stuffing out in place and returns the length of what is left. `None` for bytes that no encoder made.
pub(crate) fn decode(bytes: &mut [u8]) -> Option<usize> {
    let (mut from, mut to) = (0, 0);
    while from < bytes.len() {
        let code = bytes[from];
        let run = usize::from(code.checked_sub(1)?);
        from += 1;
        let end = from.checked_add(run).filter(|end| *end <= bytes.len())?;
        bytes.copy_within(from..end, to);
        to += run;
        from = end;
        if code != u8::MAX && from < bytes.len() {
            bytes[to] = 0;
            to += 1;
        }
    }
    Some(to)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{decode, encode};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let mut out = [0; 600];
        let length = encode(bytes, &mut out).unwrap_or(0);
        out[..length].to_vec()
    }

    #[test]
    fn the_examples_of_the_paper() {
        assert_eq!(encoded(&[0]), [1, 1]);
        assert_eq!(encoded(&[0, 0]), [1, 1, 1]);
        assert_eq!(encoded(&[0x11, 0x22, 0, 0x33]), [3, 0x11, 0x22, 2, 0x33]);
        assert_eq!(encoded(&[0x11, 0, 0, 0]), [2, 0x11, 1, 1, 1]);
        assert_eq!(encode(&[1; 10], &mut [0; 10]), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stuffed = encoded(&bytes);
            prop_assert!(!stuffed.contains(&0));
            let length = decode(&mut stuffed);
            prop_assert_eq!(length.map(|length| &stuffed[..length]), Some(&bytes[..]));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut copy = bytes.clone();
            if let Some(length) = decode(&mut copy) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
