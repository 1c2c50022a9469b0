//! Which model files are believed.
//!
//! Owns: the pinned keys of models, and reading a bundle from a folder or a `.qmodel` file. Must not: load a model.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use quorate_models::{
    Bundle, BundleError, Files, Package, PackageError, Verdict,
    package::{self, PACKAGE_BYTES_MAX, Parts},
};

use crate::command::PublicKey;

/// Why a model file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A folder is no bundle.
    #[error("{}: {error}", .path.display())]
    Bundle {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        error: BundleError,
    },
    /// A `.qmodel` file is refused.
    #[error("{}: {error}", .path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: PackageError,
    },
    /// The agent is too old for it.
    #[error("{}: key `agent_version_min`: this agent has version {}, which is older", .path.display(), env!("CARGO_PKG_VERSION"))]
    NewerAgent {
        /// The file or folder.
        path: PathBuf,
    },
}

/// A key that may sign models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelKey {
    /// Its name, as in the packages.
    pub id: String,
    /// What verifies its signatures.
    pub public_key: PublicKey,
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// These keys.
    Keys(Vec<ModelKey>),
    /// Nobody was named: the signature is not looked at. For looking at a file, never for running it.
    Unchecked,
}

impl Trust {
    fn judge(&self, key_id: &str, signed: &[u8], signature: &[u8]) -> Verdict {
        let Self::Keys(keys) = self else {
            return Verdict::Trusted;
        };
        match keys.iter().find(|key| key.id == key_id) {
            None => Verdict::UnknownKey,
            Some(key) if key.public_key.verifies(signed, signature) => Verdict::Trusted,
            Some(_) => Verdict::WrongSignature,
        }
    }

    /// Opens a package that is in memory; `path` is for messages.
    ///
    /// # Errors
    /// [`ModelError::Package`], [`ModelError::NewerAgent`].
    pub fn open_package(&self, path: &Path, bytes: &[u8]) -> Result<Package, ModelError> {
        let judge = |key: &str, signed: &[u8], signature: &[u8]| self.judge(key, signed, signature);
        let package = Package::open(bytes, judge).map_err(|error| ModelError::Package {
            path: path.to_owned(),
            error,
        })?;
        check_version(path, package.bundle())?;
        Ok(package)
    }

    /// Opens a folder, which is believed because it is the operator's own, or a `.qmodel` file.
    ///
    /// # Errors
    /// [`ModelError`].
    pub fn open(&self, path: &Path) -> Result<Opened, ModelError> {
        if path.is_dir() {
            let wrong = |error| ModelError::Bundle {
                path: path.to_owned(),
                error,
            };
            let files = Files::read(path).map_err(wrong)?;
            let bundle = files.parts().bundle().map_err(wrong)?;
            check_version(path, &bundle)?;
            return Ok(Opened {
                bundle,
                source: Source::Folder(files),
                package: None,
            });
        }
        let bytes = read_package(path)?;
        let package = self.open_package(path, &bytes)?;
        Ok(Opened {
            bundle: package.bundle().clone(),
            source: Source::File(bytes),
            package: Some(package),
        })
    }
}

/// A bundle that was believed.
#[derive(Debug)]
pub struct Opened {
    /// What is in it.
    pub bundle: Bundle,
    /// The package, where it came as one.
    pub package: Option<Package>,
    source: Source,
}

/// What was read.
#[derive(Debug)]
enum Source {
    Folder(Files),
    File(Vec<u8>),
}

impl Opened {
    /// Its parts for the process that tries it ([`Parts::framed`]). A start needs none, so they are made when asked for.
    #[must_use]
    pub fn framed(&self) -> Vec<u8> {
        let parts = match &self.source {
            Source::Folder(files) => Ok(files.parts()),
            Source::File(bytes) => package::unpack(bytes),
        };
        // What was opened can be unpacked; the trial of nothing would be refused.
        parts.map_or_else(|_| Vec::new(), |parts: Parts<'_>| parts.framed())
    }
}

fn check_version(path: &Path, bundle: &Bundle) -> Result<(), ModelError> {
    if bundle
        .manifest()
        .needs_newer_agent(env!("CARGO_PKG_VERSION"))
    {
        return Err(ModelError::NewerAgent {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Reads a file up to the largest package, and one byte more, so that a longer one is not taken for whole.
///
/// # Errors
/// [`ModelError::Io`]: no such file, or none that can be read.
pub fn read_package(path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |error| ModelError::Io {
        path: path.to_owned(),
        error,
    };
    // Asked before opening: opening a named pipe would wait for its writer for ever.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(failed(error));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PACKAGE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    Ok(bytes)
}
