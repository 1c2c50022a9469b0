//! The arguments of `quorate model`.
//!
//! Owns: their names and help. Must not: do anything.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What to do with model files.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Make a private key and print what the configuration of a device needs of it.
    Keygen {
        /// Where the private key goes; only its owner may read the file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Name of the key.
        #[arg(long, default_value = "models-1")]
        key_id: String,
    },
    /// Try a folder's model and pack it into one signed file.
    Pack {
        /// The folder with `manifest.toml`, `model.onnx` and `golden.json`.
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// Who signs.
        #[command(flatten)]
        signer: Signer,
    },
    /// Sign a packed file anew, with another key.
    Sign {
        /// The packed file.
        #[arg(value_name = "FILE.qmodel")]
        file: PathBuf,
        /// Who signs.
        #[command(flatten)]
        signer: Signer,
    },
    /// Say what is in a packed file or a folder, and try it in a process of its own; status 1 when it is not fit to run.
    Check {
        /// The packed file or the folder.
        #[arg(value_name = "FILE|DIR")]
        path: PathBuf,
        /// The configuration with the keys to believe; without it the signature is not checked.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Verify a packed file, keep it beside the outbox, and try it; then it waits. A running agent takes what waits on trial
    /// where the configuration asks for that.
    Stage {
        /// The packed file.
        #[arg(value_name = "FILE.qmodel")]
        file: PathBuf,
        /// Of what device and model.
        #[command(flatten)]
        place: Place,
        /// Take a release that is not above the highest that was active.
        #[arg(long)]
        allow_downgrade: bool,
    },
    /// Let what waits go one step further: from its shadow to the canary, or to the active file. A running agent follows
    /// within seconds.
    Promote {
        /// Of what device and model.
        #[command(flatten)]
        place: Place,
        /// Make it the active file whatever its trial has shown.
        #[arg(long)]
        force: bool,
    },
    /// End the trial of what waits, or go back to the file before. A running agent follows within seconds.
    Rollback {
        /// Of what device and model.
        #[command(flatten)]
        place: Place,
    },
    /// Which file each model runs, which was before it, which waits, and what its trial has shown so far.
    Status {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// One JSON object a model, for programs.
        #[arg(long)]
        json: bool,
    },
}

/// Who signs, and where the signed file goes.
#[derive(Debug, Args)]
pub struct Signer {
    /// The private key, PKCS #8 in PEM.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Its name, as in the configuration of the devices.
    #[arg(long, value_name = "ID")]
    pub key_id: String,
    /// The file to write.
    #[arg(long, value_name = "FILE.qmodel")]
    pub output: PathBuf,
}

/// A model of a device.
#[derive(Debug, Args)]
pub struct Place {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The model as in the configuration; not needed where there is one, or where the file says it.
    #[arg(long, value_name = "ID")]
    pub model: Option<String>,
}
