//! What evaluates a model, and what follows for its file and the manifest's keys.
//!
//! Pure. Must not look into the file.

/// What evaluates a model, and so what its file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// An ONNX graph in `model.onnx`, run by tract.
    #[default]
    Onnx,
    /// T2 and SPE of a principal component analysis, `model.json`.
    Pca,
    /// An isolation forest or boosted trees, `model.json`.
    Forest,
}

impl Kind {
    /// Name of the model's file inside a bundle's folder.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Onnx => crate::bundle::ONNX_FILE,
            Self::Pca | Self::Forest => crate::bundle::NATIVE_FILE,
        }
    }

    /// As the manifest writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Pca => "pca",
            Self::Forest => "forest",
        }
    }

    /// The kind that a manifest names, before anything of it is checked; `Onnx` where it cannot be told.
    pub(crate) fn peek(manifest: &str) -> Kind {
        #[derive(serde::Deserialize)]
        struct Only {
            kind: Option<String>,
        }
        toml::from_str(manifest)
            .ok()
            .and_then(|only: Only| only.kind)
            .and_then(|kind| Kind::parse(&kind))
            .unwrap_or_default()
    }

    pub(super) fn parse(text: &str) -> Option<Kind> {
        [Self::Onnx, Self::Pca, Self::Forest]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// The manifest's keys for the digest and the length of the file.
    pub(super) const fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Onnx => ("onnx_sha256", "onnx_bytes"),
            Self::Pca | Self::Forest => ("model_sha256", "model_bytes"),
        }
    }

    pub(crate) const fn bytes_key(self) -> &'static str {
        self.keys().1
    }
}
