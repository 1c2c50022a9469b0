#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use super::*;
use crate::testing::{Graph, Parts, shipped_dir};

/// Opens a folder with the shipped bundle after `change` was made to it.
fn open_after(change: impl FnOnce(&Path)) -> Result<Bundle, BundleError> {
    let dir = tempfile::tempdir().unwrap();
    Parts::shipped().write_to(dir.path());
    change(dir.path());
    Bundle::open(dir.path())
}

#[test]
fn shipped_bundle_opens_and_equals_its_parts() {
    let bundle = Bundle::open(shipped_dir()).unwrap();
    let parts = Parts::shipped();
    assert_eq!(bundle.model(), parts.model);
    assert_eq!(bundle.digest(), Digest::of(&parts.model));
    assert_eq!(bundle.golden().vectors().len(), 40);
    let embedded = parts.bundle().unwrap();
    assert_eq!(embedded.manifest(), bundle.manifest());
    assert_eq!(embedded.golden(), bundle.golden());
    assert!(format!("{bundle:?}").len() < 300);
}

#[test]
fn missing_folder_and_files_are_named() {
    let error = Bundle::open("no/such/folder").unwrap_err();
    assert_eq!(error.to_string(), "no/such/folder is missing");
    for file in [MANIFEST_FILE, ONNX_FILE, GOLDEN_FILE] {
        let error = open_after(|dir| fs::remove_file(dir.join(file)).unwrap()).unwrap_err();
        assert!(matches!(error, BundleError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn what_is_no_file_is_not_read() {
    let error = open_after(|dir| {
        fs::remove_file(dir.join(ONNX_FILE)).unwrap();
        fs::create_dir(dir.join(ONNX_FILE)).unwrap();
    })
    .unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn wrong_digest_shows_both() {
    let mut changed = Parts::shipped().model;
    changed[40_000] ^= 1;
    let found = Digest::of(&changed);
    let error = open_after(|dir| fs::write(dir.join(ONNX_FILE), &changed).unwrap()).unwrap_err();
    let expected = Digest::of(&Parts::shipped().model);
    assert!(
        matches!(error, BundleError::WrongDigest { .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(message.contains(&found.to_string()), "{message}");
    assert!(message.contains(&expected.to_string()), "{message}");
}

#[test]
fn truncated_model_is_called_one() {
    let whole = Parts::shipped().model;
    for length in [0, 1, 1_000, whole.len() - 1] {
        let part = &whole[..length];
        let error = open_after(|dir| fs::write(dir.join(ONNX_FILE), part).unwrap()).unwrap_err();
        let expected = format!("model.onnx is truncated: {length} of {} bytes", whole.len());
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn wrong_length_in_the_manifest_is_told_from_a_truncated_model() {
    let parts = Parts::small(&Graph::mean_square().onnx());
    let bytes = parts.model.len();
    let shorter = parts.manifest.replace(
        &format!("onnx_bytes = {bytes}"),
        &format!("onnx_bytes = {}", bytes - 1),
    );
    let error = Parts {
        manifest: shorter,
        ..parts
    }
    .bundle()
    .unwrap_err();
    assert!(error.to_string().contains("`onnx_bytes`"), "{error}");
}

#[test]
fn files_beyond_their_limit_are_refused() {
    let error = open_after(|dir| {
        let file = File::create(dir.join(MANIFEST_FILE)).unwrap();
        file.set_len(MANIFEST_BYTES_MAX + 1).unwrap();
    })
    .unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::TooLarge {
                file: MANIFEST_FILE,
                ..
            }
        ),
        "{error:?}"
    );
    // A file with a hole: it takes no disk, and is read only up to the limit.
    let error = open_after(|dir| {
        let file = File::create(dir.join(GOLDEN_FILE)).unwrap();
        file.set_len(1 << 40).unwrap();
    })
    .unwrap_err();
    assert!(
        matches!(
            error,
            BundleError::TooLarge {
                file: GOLDEN_FILE,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn text_files_must_be_text_and_right() {
    let cases: [(&str, &[u8], &str); 5] = [
        (
            MANIFEST_FILE,
            b"\xff\xfe",
            "manifest.toml is not UTF-8 text",
        ),
        (
            MANIFEST_FILE,
            b"format = 1\nformat = 1",
            "manifest.toml: line 2",
        ),
        (GOLDEN_FILE, b"\xff", "golden.json is not UTF-8 text"),
        (GOLDEN_FILE, b"", "golden.json: truncated at line 1"),
        (GOLDEN_FILE, b"{\"format\": 1]", "golden.json: expected"),
    ];
    for (file, content, expected) in cases {
        let error = open_after(|dir| fs::write(dir.join(file), content).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
