//! The files of a model, read with limits and checked for being whole.
//!
//! Owns the folder layout of a bundle. Must not know tract: that the bytes are those which the
//! manifest names says nothing about whether they are a model, which [`crate::Runner`] finds out.
//!
//! Invariant: in a [`Bundle`] that exists, the digest of the model is the manifest's, and the
//! golden vectors have the manifest's shape.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::digest::Digest;
use crate::golden::{GOLDEN_BYTES_MAX, Golden, GoldenError};
use crate::manifest::{Kind, MANIFEST_BYTES_MAX, MODEL_BYTES_MAX, Manifest, ManifestError};

/// Name of the manifest inside a bundle's folder.
pub const MANIFEST_FILE: &str = "manifest.toml";
/// Name of the model inside a bundle's folder, for [`Kind::Onnx`].
pub const ONNX_FILE: &str = "model.onnx";
/// Name of the model inside a bundle's folder, for the kinds that are evaluated natively.
pub const NATIVE_FILE: &str = "model.json";
/// Name of the golden vectors inside a bundle's folder.
pub const GOLDEN_FILE: &str = "golden.json";

/// Why a bundle is refused. Every message names the file.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The folder or one of its files is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// A file cannot be read, or is none (a folder, a device).
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is longer than this agent reads.
    #[error("{file} has more than {bytes_max} bytes, the most that is read")]
    TooLarge {
        /// The file's name.
        file: &'static str,
        /// The limit.
        bytes_max: u64,
    },
    /// A text file is not UTF-8.
    #[error("{file} is not UTF-8 text")]
    NotText {
        /// The file's name.
        file: &'static str,
    },
    /// `manifest.toml` is wrong.
    #[error("{MANIFEST_FILE}: {0}")]
    Manifest(#[from] ManifestError),
    /// The model is shorter than the manifest says.
    #[error("{file} is truncated: {found_bytes} of {expected_bytes} bytes")]
    Truncated {
        /// Its file.
        file: &'static str,
        /// Its length.
        found_bytes: u64,
        /// What the manifest says.
        expected_bytes: u64,
    },
    /// The model is not the file that the manifest was written for.
    #[error("{file} has digest {found}, the manifest says {expected}")]
    WrongDigest {
        /// Its file.
        file: &'static str,
        /// The manifest's digest.
        expected: Digest,
        /// The digest of the file.
        found: Digest,
    },
    /// `golden.json` is wrong.
    #[error("{GOLDEN_FILE}: {0}")]
    Golden(#[from] GoldenError),
}

/// A model with its manifest and golden vectors, whole but not yet loaded.
#[derive(Clone)]
pub struct Bundle {
    manifest: Manifest,
    model: Vec<u8>,
    golden: Golden,
}

/// The three files of a bundle as they were read, not yet looked into.
#[derive(Clone)]
pub struct Files {
    /// `manifest.toml`.
    pub manifest: String,
    /// `model.onnx` or `model.json`.
    pub model: Vec<u8>,
    /// `golden.json`.
    pub golden: String,
}

impl Files {
    /// Reads the folder `dir`, each file up to its limit.
    ///
    /// # Errors
    /// [`BundleError`]: a file is missing, too large, no file or no text.
    pub fn read(dir: impl AsRef<Path>) -> Result<Files, BundleError> {
        let dir = dir.as_ref();
        if !dir.is_dir() {
            return Err(BundleError::Missing {
                path: dir.to_owned(),
            });
        }
        let manifest = read_text(dir, MANIFEST_FILE, MANIFEST_BYTES_MAX)?;
        let file = Kind::peek(&manifest).file();
        Ok(Files {
            manifest,
            model: read(dir, file, MODEL_BYTES_MAX)?,
            golden: read_text(dir, GOLDEN_FILE, GOLDEN_BYTES_MAX)?,
        })
    }

    /// The same, borrowed.
    #[must_use]
    pub fn parts(&self) -> crate::package::Parts<'_> {
        crate::package::Parts {
            manifest: self.manifest.as_bytes(),
            model: &self.model,
            golden: self.golden.as_bytes(),
        }
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The weights and vectors would fill pages.
        formatter
            .debug_struct("Files")
            .field("model_bytes", &self.model.len())
            .finish_non_exhaustive()
    }
}

impl Bundle {
    /// Reads the bundle in the folder `dir`: [`MANIFEST_FILE`], the model ([`Kind::file`]), [`GOLDEN_FILE`].
    /// Other files there are ignored.
    ///
    /// # Errors
    /// [`BundleError`]: a file is missing, too large, truncated, has the wrong digest or is wrong.
    pub fn open(dir: impl AsRef<Path>) -> Result<Bundle, BundleError> {
        let files = Files::read(dir)?;
        Bundle::assemble(&files.manifest, files.model, &files.golden)
    }

    /// The bundle made of these three files' contents, for a model inside the binary.
    ///
    /// # Errors
    /// As [`Bundle::open`], except for what concerns reading.
    pub fn from_parts(manifest: &str, model: &[u8], golden: &str) -> Result<Bundle, BundleError> {
        if length(model) > MODEL_BYTES_MAX {
            return Err(BundleError::TooLarge {
                file: Kind::peek(manifest).file(),
                bytes_max: MODEL_BYTES_MAX,
            });
        }
        Bundle::assemble(manifest, model.to_owned(), golden)
    }

    /// What the model is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the model's file: with id and version it names the model in a record.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.manifest.model_sha256
    }

    /// The bytes of the model's file, at most [`MODEL_BYTES_MAX`].
    #[must_use]
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The golden vectors.
    #[must_use]
    pub fn golden(&self) -> &Golden {
        &self.golden
    }

    fn assemble(manifest: &str, model: Vec<u8>, golden: &str) -> Result<Bundle, BundleError> {
        let manifest = Manifest::parse(manifest)?;
        check_model(&manifest, &model)?;
        let golden = Golden::parse(golden, &manifest)?;
        Ok(Bundle {
            manifest,
            model,
            golden,
        })
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The weights and vectors would fill pages.
        formatter
            .debug_struct("Bundle")
            .field("id", &self.manifest.id)
            .field("version", &self.manifest.version)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

fn check_model(manifest: &Manifest, model: &[u8]) -> Result<(), BundleError> {
    let file = manifest.kind.file();
    let (found_bytes, expected_bytes) = (length(model), manifest.model_bytes);
    if found_bytes < expected_bytes {
        return Err(BundleError::Truncated {
            file,
            found_bytes,
            expected_bytes,
        });
    }
    let (expected, found) = (manifest.model_sha256, Digest::of(model));
    if expected != found {
        return Err(BundleError::WrongDigest {
            file,
            expected,
            found,
        });
    }
    if found_bytes != expected_bytes {
        // The digest proves the file right, so the length in the manifest is the wrong one.
        return Err(BundleError::Manifest(ManifestError::Value {
            key: manifest.kind.bytes_key().to_owned(),
            reason: format!("{file} has {found_bytes} bytes and the right digest"),
        }));
    }
    Ok(())
}

fn read_text(dir: &Path, file: &'static str, bytes_max: u64) -> Result<String, BundleError> {
    String::from_utf8(read(dir, file, bytes_max)?).map_err(|_| BundleError::NotText { file })
}

fn read(dir: &Path, file: &'static str, bytes_max: u64) -> Result<Vec<u8>, BundleError> {
    let path = dir.join(file);
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => BundleError::Missing { path: path.clone() },
        _ => BundleError::Read {
            path: path.clone(),
            source,
        },
    };
    // Asked before opening: opening a named pipe would wait for its writer for ever.
    if !std::fs::metadata(&path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|opened| opened.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if length(&bytes) > bytes_max {
        return Err(BundleError::TooLarge { file, bytes_max });
    }
    Ok(bytes)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
