#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::testing::{Dice, Graph, Parts as Files};

/// Stands in for Ed25519, which this crate does not know: the digest, twice.
fn sign(signed: &[u8]) -> Vec<u8> {
    Digest::of(signed).as_bytes().repeat(2)
}

fn judge(key_id: &str, signed: &[u8], signature: &[u8]) -> Verdict {
    match key_id {
        "plant-1" if signature == sign(signed) => Verdict::Trusted,
        "plant-1" => Verdict::WrongSignature,
        _ => Verdict::UnknownKey,
    }
}

fn files(release: u64) -> Files {
    let small = Files::small(&Graph::mean_square().onnx());
    Files {
        manifest: small.manifest.replacen(
            "version = \"1\"",
            &format!("version = \"1\"\nrelease = {release}"),
            1,
        ),
        ..small
    }
}

fn pack_files(files: &Files, key_id: &str) -> Result<Vec<u8>, PackageError> {
    let parts = Parts {
        manifest: files.manifest.as_bytes(),
        model: &files.model,
        golden: files.golden.as_bytes(),
    };
    pack(parts, key_id, sign)
}

fn packed() -> Vec<u8> {
    pack_files(&files(3), "plant-1").unwrap()
}

fn cause(bytes: &[u8]) -> &'static str {
    Package::open(bytes, judge).unwrap_err().cause()
}

#[test]
fn what_was_packed_is_opened_and_a_second_pack_is_the_same() {
    let bytes = packed();
    assert_eq!(bytes, packed());
    let package = Package::open(&bytes, judge).unwrap();
    assert_eq!((package.release(), package.key_id()), (3, "plant-1"));
    assert_eq!(package.digest(), Digest::of(&bytes));
    assert_eq!(package.bundle().model(), files(3).model);
    let parts = unpack(&bytes).unwrap();
    assert_eq!(pack(parts, "plant-1", sign).unwrap(), bytes);
}

#[test]
fn every_cut_is_truncated_and_every_addition_is_named() {
    let bytes = packed();
    for length in 0..bytes.len() {
        assert_eq!(cause(&bytes[..length]), "truncated", "{length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(cause(&longer), "trailing-bytes");
    assert_eq!(cause(b"PK\x03\x04 a zip file"), "not-a-package");
}

#[test]
fn forged_and_unknown_signatures_are_told_apart() {
    let bytes = packed();
    let mut forged = bytes.clone();
    forged[SIGNED_BYTES] ^= 1;
    assert_eq!(cause(&forged), "wrong-signature");
    // A digest in the table, so that another part would fit.
    let mut changed = bytes.clone();
    changed[TABLE_AT + 8] ^= 1;
    assert_eq!(cause(&changed), "wrong-signature");
    let stranger = pack_files(&files(3), "stranger").unwrap();
    assert_eq!(cause(&stranger), "unknown-key");
    let error = Package::open(&stranger, judge).unwrap_err().to_string();
    assert!(error.contains("`stranger`"), "{error}");
}

#[test]
fn reordered_parts_are_called_so() {
    let bytes = packed();
    let parts = unpack(&bytes).unwrap();
    let header = &bytes[..HEADER_BYTES];
    for order in [
        [parts.model, parts.manifest, parts.golden],
        [parts.golden, parts.model, parts.manifest],
        [parts.model, parts.golden, parts.manifest],
    ] {
        assert_eq!(cause(&[header, &order.concat()].concat()), "reordered");
    }
}

#[test]
fn parts_of_two_bundles_do_not_mix() {
    // Equal lengths: the release number has as many digits.
    let (one, other) = (packed(), pack_files(&files(4), "plant-1").unwrap());
    assert_eq!(one.len(), other.len());
    let mixed = [&one[..HEADER_BYTES], &other[HEADER_BYTES..]].concat();
    assert_eq!(cause(&mixed), "foreign-part");
    // Signed by the right key, made of parts that do not belong together.
    let files = Files {
        model: Graph::with_node(crate::testing::node("Add", &["window", "window"], "sum")).onnx(),
        ..files(3)
    };
    assert_eq!(
        pack_files(&files, "plant-1").unwrap_err().cause(),
        "wrong-part"
    );
}

#[test]
fn a_package_needs_a_release_and_a_key_name() {
    let without = Files::small(&Graph::mean_square().onnx());
    assert_eq!(
        pack_files(&without, "plant-1").unwrap_err().cause(),
        "no-release"
    );
    for name in ["", "a b", "ä", &"x".repeat(64)] {
        assert_eq!(pack_files(&files(1), name).unwrap_err().cause(), "key-name");
    }
    let mut bytes = packed();
    bytes[TABLE_AT - 1] = b'x';
    assert_eq!(cause(&bytes), "key-name");
}

#[test]
fn a_length_beyond_its_limit_allocates_nothing() {
    for (entry, _) in PARTS.iter().enumerate() {
        let mut bytes = packed();
        let at = TABLE_AT + entry * ENTRY_BYTES;
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(cause(&bytes), "too-large");
    }
}

/// A thousand mutants, several kinds: none is opened, whatever it is.
#[test]
fn no_mutant_is_opened() {
    let bytes = packed();
    let other = pack_files(&files(44), "plant-1").unwrap();
    let mut dice = Dice(20_261_124);
    let mut causes = std::collections::BTreeMap::new();
    let mut mutants = 0;
    while mutants < 1_000 {
        let mut mutant = bytes.clone();
        let at = dice.below(mutant.len());
        let length = 1 + dice.below(64.min(mutant.len() - at));
        match dice.below(6) {
            0 => mutant[at] ^= 1 << dice.below(8),
            1 => mutant.truncate(at),
            2 => mutant.splice(at..at, [7].repeat(length)).for_each(drop),
            3 => mutant.drain(at..at + length).for_each(drop),
            4 => {
                let from = dice.below(other.len() - length);
                mutant[at..at + length].copy_from_slice(&other[from..from + length]);
            }
            _ => {
                let header = dice.below(HEADER_BYTES - 8);
                mutant[header..header + 8].fill(u8::try_from(dice.below(256)).unwrap());
            }
        }
        if mutant == bytes {
            continue;
        }
        mutants += 1;
        *causes.entry(cause(&mutant)).or_insert(0) += 1;
    }
    assert!(causes.len() >= 6, "{causes:?}");
}

#[test]
fn framed_parts_are_read_whole_or_not_at_all() {
    let files = files(3);
    let parts = Parts {
        manifest: files.manifest.as_bytes(),
        model: &files.model,
        golden: files.golden.as_bytes(),
    };
    let framed = parts.framed();
    assert_eq!(Parts::from_framed(&framed), Some(parts));
    for length in 0..framed.len() {
        assert_eq!(Parts::from_framed(&framed[..length]), None, "{length}");
    }
    assert_eq!(
        Parts::from_framed(&[framed.as_slice(), &[0]].concat()),
        None
    );
    assert_eq!(Parts::from_framed(&[0xff; 64]), None);
}
