//! What may be asked of the files of a model.
//!
//! Owns: the vocabulary. Must not: fetch or believe a file.

use alloc::{string::String, vec::Vec};

/// A file that is to be staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The model; may be left out where one is configured.
    pub model: Option<String>,
    /// SHA-256 of the whole file, 64 hexadecimal digits in lower case.
    pub sha256: String,
    /// Its length, 1 to that of the largest package.
    pub bytes: u64,
    /// Where to fetch it; none where it comes in pieces.
    pub url: Option<String>,
    /// A piece and where it begins.
    pub piece: Option<(u64, Vec<u8>)>,
    /// Its release need not be above the highest that was active.
    pub allow_downgrade: bool,
}

/// A command about the files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelDeed {
    /// Fetch a file and let it wait.
    Stage(Parcel),
    /// Take a piece of a file; the whole one waits.
    Chunk(Parcel),
    /// Let what waits go a step further.
    Promote {
        /// The model; may be left out where one is configured.
        model: Option<String>,
        /// All the way, whatever its trial has shown.
        force: bool,
    },
    /// End a trial, or go back to the file before.
    Rollback {
        /// The model; may be left out where one is configured.
        model: Option<String>,
    },
}

impl ModelDeed {
    /// The word used in topics, envelopes, records and allow-lists.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stage(_) => "model-stage",
            Self::Chunk(_) => "model-chunk",
            Self::Promote { .. } => "model-promote",
            Self::Rollback { .. } => "model-rollback",
        }
    }

    /// The model that it is about, where it says so.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let model = match self {
            Self::Stage(parcel) | Self::Chunk(parcel) => &parcel.model,
            Self::Promote { model, .. } | Self::Rollback { model } => model,
        };
        model.as_deref()
    }

    /// The further permission that it needs: to go back to an older release, or not to wait for the evidence.
    #[must_use]
    pub const fn permission(&self) -> Option<&'static str> {
        match self {
            Self::Stage(parcel) | Self::Chunk(parcel) if parcel.allow_downgrade => Some(DOWNGRADE),
            Self::Promote { force: true, .. } => Some(FORCE),
            _ => None,
        }
    }
}

/// Permission to bring a release that is not above the highest that was active.
pub const DOWNGRADE: &str = "model-downgrade";
/// Permission to promote what has not passed its trial.
pub const FORCE: &str = "model-force";
