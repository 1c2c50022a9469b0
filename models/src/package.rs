//! A bundle in one file, `.qmodel`: the form in which a model travels.
//!
//! Owns the layout of the file (version 1, byte by byte in docs/models.md). Must not know keys: whoever
//! opens a package brings the judge of its signature. Reads and writes no file.
//!
//! Invariants: the signature covers the header, the header holds length and digest of every part, and a
//! part is looked into only after its judge accepted the signature and its digest was found right. There
//! is one way to write a given set of parts: a second pack gives the same bytes.

use thiserror::Error;

use crate::bundle::{Bundle, BundleError, GOLDEN_FILE, MANIFEST_FILE};
use crate::digest::Digest;
use crate::golden::GOLDEN_BYTES_MAX;
use crate::manifest::{MANIFEST_BYTES_MAX, MODEL_BYTES_MAX};

/// Largest package, bytes: its header and its three parts at their largest.
pub const PACKAGE_BYTES_MAX: u64 = 256 + MANIFEST_BYTES_MAX + MODEL_BYTES_MAX + GOLDEN_BYTES_MAX;
/// Longest name of a key, bytes.
pub const KEY_ID_BYTES_MAX: usize = 63;

/// Begins every package: what it is, and the version of its form.
const MAGIC: [u8; 8] = *b"QRmodel1";
/// Where the table of parts begins: after the magic and the padded name of the key.
const TABLE_AT: usize = 72;
/// Bytes of an entry of the table: length and digest.
const ENTRY_BYTES: usize = 40;
/// What the signature covers: magic, name of the key, table.
const SIGNED_BYTES: usize = TABLE_AT + 3 * ENTRY_BYTES;
/// An Ed25519 signature.
const SIGNATURE_BYTES: usize = 64;
/// Where the first part begins.
const HEADER_BYTES: usize = SIGNED_BYTES + SIGNATURE_BYTES;

/// The second part, whatever its kind: which one it is stands in the manifest, which is not read before its digest was.
const MODEL_PART: &str = "the model";

/// The parts in their order, and the most bytes of each.
const PARTS: [(&str, u64); 3] = [
    (MANIFEST_FILE, MANIFEST_BYTES_MAX),
    (MODEL_PART, MODEL_BYTES_MAX),
    (GOLDEN_FILE, GOLDEN_BYTES_MAX),
];

/// What the judge of a signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The signature is that of a key which is trusted.
    Trusted,
    /// No key of that name is trusted.
    UnknownKey,
    /// It is not the signature of that key.
    WrongSignature,
}

/// Why a package is refused. [`PackageError::cause`] gives it in one word.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The file is no package, or one of a later form.
    #[error("it is no .qmodel file of version 1")]
    NotPackage,
    /// The file ends before its last part does.
    #[error("it is truncated: {found_bytes} of {expected_bytes} bytes")]
    Truncated {
        /// Its length.
        found_bytes: u64,
        /// What its header says, or the length of a header.
        expected_bytes: u64,
    },
    /// Something stands after the last part.
    #[error("{extra_bytes} bytes stand after its last part")]
    TrailingBytes {
        /// How many.
        extra_bytes: u64,
    },
    /// A part is longer than this agent reads.
    #[error("{part} has {found_bytes} bytes, at most {bytes_max} are read")]
    TooLarge {
        /// Name of the part.
        part: &'static str,
        /// What the header says.
        found_bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The name of the key is no name.
    #[error("the name of its key is not 1 to {KEY_ID_BYTES_MAX} letters, digits, `-`, `_` or `.`")]
    KeyName,
    /// Its key is not trusted.
    #[error("it is signed by `{key_id}`, which is no key of this device")]
    UnknownKey {
        /// Name of the key.
        key_id: String,
    },
    /// It was changed after it was signed, or never signed by that key.
    #[error("its signature is not that of key `{key_id}`: it is forged, or its header was changed")]
    WrongSignature {
        /// Name of the key.
        key_id: String,
    },
    /// All parts are there, in another order.
    #[error("its parts stand in another order")]
    Reordered,
    /// A part is not the one that was signed.
    #[error(
        "{part} has digest {found}, its header says {expected}: it is damaged, or from another bundle"
    )]
    ForeignPart {
        /// Name of the part.
        part: &'static str,
        /// What the header says.
        expected: Digest,
        /// The digest of the part.
        found: Digest,
    },
    /// A part is whole and wrong.
    #[error("{0}")]
    Bundle(#[from] BundleError),
    /// The manifest has no release number, which a package needs.
    #[error("{MANIFEST_FILE}: key `release`: a .qmodel file needs one")]
    NoRelease,
}

impl PackageError {
    /// The cause in one kebab-case word.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::NotPackage => "not-a-package",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing-bytes",
            Self::TooLarge { .. } => "too-large",
            Self::KeyName => "key-name",
            Self::UnknownKey { .. } => "unknown-key",
            Self::WrongSignature { .. } => "wrong-signature",
            Self::Reordered => "reordered",
            Self::ForeignPart { .. } => "foreign-part",
            Self::Bundle(_) => "wrong-part",
            Self::NoRelease => "no-release",
        }
    }
}

/// A package whose signature was judged and whose parts are those that were signed.
#[derive(Debug, Clone)]
pub struct Package {
    key_id: String,
    digest: Digest,
    bundle: Bundle,
    release: u64,
}

impl Package {
    /// Opens a package. `judge` gets the name of the key, what was signed, and the signature.
    ///
    /// # Errors
    /// [`PackageError`], in this order: form, signature, digests, content.
    pub fn open(
        bytes: &[u8],
        judge: impl FnOnce(&str, &[u8], &[u8]) -> Verdict,
    ) -> Result<Package, PackageError> {
        let header = Header::read(bytes)?;
        let key_id = header.key_id.to_owned();
        match judge(header.key_id, header.signed, header.signature) {
            Verdict::Trusted => {}
            Verdict::UnknownKey => return Err(PackageError::UnknownKey { key_id }),
            Verdict::WrongSignature => return Err(PackageError::WrongSignature { key_id }),
        }
        let [manifest, model, golden] = header.parts(bytes)?;
        let bundle = bundle([manifest, model, golden])?;
        let release = bundle.manifest().release.ok_or(PackageError::NoRelease)?;
        Ok(Package {
            key_id,
            digest: Digest::of(bytes),
            bundle,
            release,
        })
    }

    /// Name of the key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// SHA-256 of the whole file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its release number, from 1.
    #[must_use]
    pub fn release(&self) -> u64 {
        self.release
    }

    /// What is in it.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }
}

/// The three files of a bundle as bytes: `manifest.toml`, the model (`model.onnx` or `model.json`), `golden.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// `manifest.toml`.
    pub manifest: &'a [u8],
    /// `model.onnx` or `model.json`.
    pub model: &'a [u8],
    /// `golden.json`.
    pub golden: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The bundle made of them.
    ///
    /// # Errors
    /// [`BundleError`]: they are no bundle.
    pub fn bundle(&self) -> Result<Bundle, BundleError> {
        bundle([self.manifest, self.model, self.golden])
    }

    /// One byte string of them, for another process: three lengths (u64, little-endian), then the parts.
    #[must_use]
    pub fn framed(&self) -> Vec<u8> {
        let parts = [self.manifest, self.model, self.golden];
        let lengths = parts.iter().flat_map(|part| length(part).to_le_bytes());
        let mut framed: Vec<u8> = lengths.collect();
        parts.iter().for_each(|part| framed.extend_from_slice(part));
        framed
    }

    /// The parts of such a byte string, where it is one.
    #[must_use]
    pub fn from_framed(framed: &'a [u8]) -> Option<Parts<'a>> {
        let (lengths, mut rest) = framed.split_at_checked(24)?;
        let mut parts = [&rest[..0]; 3];
        for (part, length) in parts.iter_mut().zip(lengths.chunks_exact(8)) {
            let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
            (*part, rest) = rest.split_at_checked(length)?;
        }
        let [manifest, model, golden] = parts;
        rest.is_empty().then_some(Parts {
            manifest,
            model,
            golden,
        })
    }
}

/// Packs three files. `sign` gets what is to be signed and gives the 64 bytes of an Ed25519 signature.
/// The same files, key and name give the same bytes, because Ed25519 has no randomness of its own.
///
/// # Errors
/// The parts are no bundle, have no release number, or the name of the key is none.
///
/// # Panics
/// When `sign` gives something else than 64 bytes.
pub fn pack(
    parts: Parts<'_>,
    key_id: &str,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<Vec<u8>, PackageError> {
    if !is_key_id(key_id) {
        return Err(PackageError::KeyName);
    }
    let parts = [parts.manifest, parts.model, parts.golden];
    for (bytes, (part, bytes_max)) in parts.iter().zip(PARTS) {
        check_length(part, length(bytes), bytes_max)?;
    }
    let bundle = bundle(parts)?;
    if bundle.manifest().release.is_none() {
        return Err(PackageError::NoRelease);
    }
    let mut packed = MAGIC.to_vec();
    packed.extend_from_slice(key_id.as_bytes());
    packed.resize(TABLE_AT, 0);
    for bytes in parts {
        packed.extend_from_slice(&length(bytes).to_le_bytes());
        packed.extend_from_slice(Digest::of(bytes).as_bytes());
    }
    let signature = sign(&packed);
    assert_eq!(signature.len(), SIGNATURE_BYTES, "an Ed25519 signature");
    packed.extend_from_slice(&signature);
    for bytes in parts {
        packed.extend_from_slice(bytes);
    }
    Ok(packed)
}

/// The parts of a package, for who signs it anew; their digests are checked, the signature is not.
///
/// # Errors
/// [`PackageError`], but for what concerns the signature and the content.
pub fn unpack(bytes: &[u8]) -> Result<Parts<'_>, PackageError> {
    let [manifest, model, golden] = Header::read(bytes)?.parts(bytes)?;
    Ok(Parts {
        manifest,
        model,
        golden,
    })
}

struct Header<'a> {
    key_id: &'a str,
    signed: &'a [u8],
    signature: &'a [u8],
    lengths: [usize; 3],
    digests: [Digest; 3],
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, PackageError> {
        if !bytes.starts_with(&MAGIC) && !MAGIC.starts_with(bytes) {
            return Err(PackageError::NotPackage);
        }
        let truncated = |expected_bytes| PackageError::Truncated {
            found_bytes: length(bytes),
            expected_bytes,
        };
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| truncated(u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX)))?;
        let (signed, signature) = header.split_at(SIGNED_BYTES);
        let key_id = key_id(&signed[MAGIC.len()..TABLE_AT])?;
        let mut lengths = [0; 3];
        let mut digests = [Digest::of(&[]); 3];
        let mut expected_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
        for (index, entry) in signed[TABLE_AT..].chunks_exact(ENTRY_BYTES).enumerate() {
            let (bytes, digest) = entry.split_at(8);
            let part_bytes = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            let (part, bytes_max) = PARTS[index];
            check_length(part, part_bytes, bytes_max)?;
            expected_bytes += part_bytes;
            lengths[index] = usize::try_from(part_bytes).expect("below the part's limit");
            digests[index] = Digest::from_bytes(digest.try_into().expect("32 bytes"));
        }
        match length(bytes).checked_sub(expected_bytes) {
            None => Err(truncated(expected_bytes)),
            Some(0) => Ok(Self {
                key_id,
                signed,
                signature,
                lengths,
                digests,
            }),
            Some(extra_bytes) => Err(PackageError::TrailingBytes { extra_bytes }),
        }
    }

    /// The parts, each with the digest that the header says.
    fn parts(&self, bytes: &'a [u8]) -> Result<[&'a [u8]; 3], PackageError> {
        let body = &bytes[HEADER_BYTES..];
        let parts = self.cut(body, [0, 1, 2]);
        let wrong = (0..3).find(|&index| Digest::of(parts[index]) != self.digests[index]);
        let Some(index) = wrong else {
            return Ok(parts);
        };
        if self.is_reordered(body) {
            return Err(PackageError::Reordered);
        }
        Err(PackageError::ForeignPart {
            part: PARTS[index].0,
            expected: self.digests[index],
            found: Digest::of(parts[index]),
        })
    }

    /// The parts as they lie when they are written in this order.
    fn cut<'b>(&self, body: &'b [u8], order: [usize; 3]) -> [&'b [u8]; 3] {
        let mut parts = [&body[..0]; 3];
        let mut rest = body;
        for index in order {
            let (part, after) = rest.split_at(self.lengths[index]);
            parts[index] = part;
            rest = after;
        }
        parts
    }

    fn is_reordered(&self, body: &[u8]) -> bool {
        let orders = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        orders.into_iter().any(|order| {
            let parts = self.cut(body, order);
            (0..3).all(|index| Digest::of(parts[index]) == self.digests[index])
        })
    }
}

/// The name of the key; what follows it must be zeros, so that there is one way to write it.
fn key_id(field: &[u8]) -> Result<&str, PackageError> {
    let end = field.iter().position(|byte| *byte == 0);
    let (name, padding) = field.split_at(end.unwrap_or(field.len()));
    match std::str::from_utf8(name) {
        Ok(name) if is_key_id(name) && padding.iter().all(|byte| *byte == 0) => Ok(name),
        _ => Err(PackageError::KeyName),
    }
}

fn is_key_id(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=KEY_ID_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed)
}

fn check_length(part: &'static str, found_bytes: u64, bytes_max: u64) -> Result<(), PackageError> {
    if found_bytes <= bytes_max {
        return Ok(());
    }
    Err(PackageError::TooLarge {
        part,
        found_bytes,
        bytes_max,
    })
}

fn bundle([manifest, model, golden]: [&[u8]; 3]) -> Result<Bundle, BundleError> {
    let text = |bytes, file| std::str::from_utf8(bytes).map_err(|_| BundleError::NotText { file });
    Bundle::from_parts(
        text(manifest, MANIFEST_FILE)?,
        model,
        text(golden, GOLDEN_FILE)?,
    )
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
