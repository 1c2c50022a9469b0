//! The keys that sign commands.
//!
//! Owns: Ed25519 (by ring, which TLS brings along) and the forms in which keys are written. Must not: print a private key.
//!
//! A private key is PKCS #8 in PEM (RFC 8410), as `openssl genpkey -algorithm ed25519` makes it.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};

/// Bytes of a public key and of the secret that a private key is made of.
const KEY_BYTES: usize = 32;
/// What stands before the secret in PKCS #8 version 1 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// Largest key file in bytes.
const FILE_BYTES_MAX: u64 = 4_096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// The file is no private key.
    #[error("{file}: expected an Ed25519 private key, PKCS #8 in PEM")]
    Form {
        /// The file.
        file: String,
    },
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Random,
}

/// A key that may give commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub id: String,
    /// What verifies its signatures.
    pub public_key: PublicKey,
    /// The commands that it may give.
    pub allow: Vec<String>,
}

/// An Ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Reads base64 (44 characters) or hexadecimal (64).
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = if text.len() == 2 * KEY_BYTES {
            let digit = |at| {
                text.get(at..at + 2)
                    .and_then(|two| u8::from_str_radix(two, 16).ok())
            };
            (0..KEY_BYTES).map(|byte| digit(2 * byte)).collect()
        } else {
            STANDARD.decode(text).ok()
        };
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                "expected an Ed25519 public key of 32 bytes in base64 or hexadecimal".to_owned()
            })
    }

    /// Whether `signature` is of this key over `bytes`.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(bytes, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    /// Base64.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0))
    }
}

/// An Ed25519 private key.
pub struct PrivateKey {
    seed: [u8; KEY_BYTES],
    pair: Ed25519KeyPair,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PrivateKey")
            .field("public", &self.public())
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// A new key from the system's randomness.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; KEY_BYTES];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| KeyError::Random)?;
        Self::from_seed(seed).ok_or(KeyError::Random)
    }

    fn from_seed(seed: [u8; KEY_BYTES]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        Some(Self { seed, pair })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`KeyError::Io`] or [`KeyError::Form`]; no part of the file is quoted.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file = path.display().to_string();
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|error| KeyError::Io {
                file: file.clone(),
                error,
            })?;
        Self::from_pem(&text).ok_or(KeyError::Form { file })
    }

    fn from_pem(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(PEM_BEGIN)?;
        let (body, _) = rest.split_once(PEM_END)?;
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).ok()?;
        let seed = der.strip_prefix(&PKCS8_PREFIX)?;
        Self::from_seed(seed.try_into().ok()?)
    }

    /// Writes a file that only its owner may read; one that exists is left alone.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut der = PKCS8_PREFIX.to_vec();
        der.extend_from_slice(&self.seed);
        let text = format!("{PEM_BEGIN}\n{}\n{PEM_END}\n", STANDARD.encode(der));
        fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| KeyError::Io {
                file: path.display().to_string(),
                error,
            })
    }

    /// What verifies its signatures.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(
            bytes
                .try_into()
                .expect("an Ed25519 public key has 32 bytes"),
        )
    }

    /// The signature over these bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn it_signs_as_the_standard_says() {
        let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let seed = PublicKey::parse(seed).unwrap().0;
        let key = PrivateKey::from_seed(seed).unwrap();
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(key.public(), PublicKey::parse(public).unwrap());
        let signature = key.sign(&[0x72]);
        assert_eq!(signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
    }

    #[test]
    fn a_key_survives_its_file_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let key = PrivateKey::generate().unwrap();
        key.write_new(&path).unwrap();
        assert_eq!(PrivateKey::read(&path).unwrap().public(), key.public());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(key.write_new(&path), Err(KeyError::Io { .. })));
        fs::write(&path, "-----BEGIN PRIVATE KEY-----\nAAAA\n").unwrap();
        let error = PrivateKey::read(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("expected an Ed25519 private key, PKCS #8 in PEM"),
            "{error}"
        );
        assert!(!format!("{key:?}").contains("seed"));
    }

    #[test]
    fn public_keys_have_two_forms() {
        let key = PrivateKey::generate().unwrap().public();
        assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        for wrong in ["", "AAAA", &"zz".repeat(32), &"é".repeat(32)] {
            assert!(PublicKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
