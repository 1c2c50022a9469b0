//! Manual pages and completions for shells, made from the definitions of the commands.
//!
//! Owns: which of these files there are. Must not: be part of what ships to devices; a package is made where the feature
//! `manual` is on. Invariant: a hidden command has no page and no completion.

use std::{fs, io, path::Path};

use clap::Command;
use clap_complete::{Shell, generate_to};

use crate::outcome::Outcome;

/// Writes `quorate.1`, a page `quorate-COMMAND.1` for each command below it, and the completions `quorate.bash`,
/// `quorate.fish` and `_quorate` (zsh) into `folder`, which is made when it is not there.
///
/// # Errors
/// When a file cannot be written.
pub fn write(command: Command, folder: &Path) -> Result<(), Outcome> {
    write_files(command, folder)
        .map_err(|error| Outcome::failed(format_args!("{}: {error}", folder.display())))
}

fn write_files(command: Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command.clone(), "quorate", folder)?;
    }
    clap_mangen::generate_to(command, folder)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::write;
    use clap::Command;
    use std::fs;

    fn command() -> Command {
        Command::new("quorate")
            .subcommand(Command::new("run").about("Run the agent."))
            .subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn every_command_has_a_page_but_the_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        write(command(), folder.path()).unwrap();
        let page = fs::read_to_string(folder.path().join("quorate.1")).unwrap();
        assert!(page.contains("quorate\\-run"), "{page}");
        assert!(folder.path().join("quorate-run.1").exists());
        assert!(!folder.path().join("quorate-secret.1").exists());
        for name in ["quorate.bash", "quorate.fish", "_quorate"] {
            let text = fs::read_to_string(folder.path().join(name)).unwrap();
            assert!(text.contains("run"), "{name}: {text}");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write(command(), &file.path().join("inside")).unwrap_err();
        assert_eq!(error.status(), 1);
        assert!(error.to_string().contains("inside"), "{error}");
    }
}
