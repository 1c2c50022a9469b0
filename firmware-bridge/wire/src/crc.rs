//! CRC-32 as of IEEE 802.3 and zlib.
//!
//! Owns the polynomial. Sixteen entries of table: 64 bytes that a small microcontroller has.

/// CRC of each half byte, for the reflected polynomial 0xEDB88320.
const TABLE: [u32; 16] = table();

const fn table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut at = 0;
    let mut value: u32 = 0;
    while at < 16 {
        let mut crc = value;
        let mut bit = 0;
        while bit < 4 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
            bit += 1;
        }
        table[at] = crc;
        at += 1;
        value += 1;
    }
    table
}

/// The checksum of some bytes.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        let crc = crc ^ u32::from(*byte);
        let crc = (crc >> 4) ^ TABLE[half(crc)];
        (crc >> 4) ^ TABLE[half(crc)]
    })
}

/// The lowest four bits, as a place in the table.
fn half(crc: u32) -> usize {
    usize::from(crc.to_le_bytes()[0] & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn check_value_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
