//! Rules about the source tree that no compiler checks: owner files, dependencies one way, sizes, openings.
//!
//! Owns: the rules and their exceptions. Reads files only; each rule has a test that shows it catching a violation.
//! Rules see [`code_of`] a file: comments and the insides of literals are blanked, lines and columns stay.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Crates and calls, and the files that may name them: a path, a folder (ends in `/`) or a prefix (ends in `*`).
const OWNERS: [(&str, &[&str]); 14] = [
    ("sled", &["agent/src/store*"]),
    ("rumqttc", &["agent/src/mqtt/"]),
    ("rumqttc_v4", &["agent/src/mqtt/"]),
    ("ciborium", &["agent/src/mqtt/"]),
    ("tract_onnx", &["models/src/runner*"]),
    ("tract_core", &["models/src/runner*"]),
    ("linux_embedded_hal", &["firmware-bridge/src/linux*"]),
    ("tokio", &["agent/src/mqtt/", "agent/src/http*"]),
    ("hyper", &["agent/src/http*"]),
    ("hyper_util", &["agent/src/http*"]),
    ("rustls_native_certs", &["agent/src/mqtt/"]),
    ("ring", &["agent/src/command/"]),
    ("base64", &["agent/src/command/"]),
    ("sd_notify", &["agent/src/supervisor.rs"]),
];

/// Readings of a clock. Deciding is the core's and its time comes from clock.rs; the time limit of a socket or
/// of a group commit may be an `Instant` in the file that owns the socket or the store.
const CLOCKS: [(&str, &[&str]); 2] = [
    ("SystemTime::now", &["agent/src/clock.rs"]),
    (
        "Instant::now",
        &[
            "agent/src/clock.rs",
            "agent/src/mqtt/",
            "agent/src/http*",
            "agent/src/status.rs",
            "agent/src/store*",
            // A measurement, no part of what runs.
            "models/examples/",
        ],
    ),
];

/// Crates of this workspace, and those of it that each may depend on.
const DIRECTIONS: [(&str, &[&str]); 6] = [
    ("agent/core", &[]),
    ("firmware-bridge", &["quorate-wire"]),
    ("firmware-bridge/wire", &[]),
    ("models", &[]),
    (
        "agent",
        &["quorate-core", "quorate-firmware-bridge", "quorate-models"],
    ),
    ("tests", &["quorate-core", "quorate"]),
];

/// Lines of a file without its tests module.
const FILE_LINES_MAX: usize = 500;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;
/// Files that are longer: at most these many lines. A number here may only fall.
const LONG_FILES: [(&str, usize); 0] = [];
/// Functions that are longer, as `file function`. A number here may only fall.
const LONG_FUNCTIONS: [(&str, usize); 0] = [];

/// A file of the tree: its path from the root, and its text.
#[derive(Debug)]
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let path = self.path.as_str();
        path.starts_with("tests/")
            || path.contains("/tests/")
            || path.contains("/benches/")
            || path.ends_with("/tests.rs")
            || path.ends_with("/testing.rs")
    }
}

/// The text with comments and the insides of string and character literals turned into spaces.
fn code_of(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < characters.len() {
        let end = literal_end(&characters, at);
        if end == at {
            code.push(characters[at]);
            at += 1;
        } else {
            code.extend(
                characters[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(text: &[char], at: usize) -> usize {
    let next = |offset: usize| text.get(at + offset).copied().unwrap_or('\0');
    let after_word = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    match text[at] {
        '/' if next(1) == '/' => find(text, at, &['\n']),
        '/' if next(1) == '*' => find(text, at + 2, &['*', '/'])
            .saturating_add(2)
            .min(text.len()),
        '"' => quoted_end(text, at + 1, '"'),
        'r' if !after_word || text[at - 1] == 'b' => {
            let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
            if next(1 + hashes) != '"' {
                return at;
            }
            let mut closing = vec!['"'];
            closing.resize(1 + hashes, '#');
            let start = at + 2 + hashes;
            (find(text, start, &closing) + closing.len()).min(text.len())
        }
        '\'' if next(1) == '\\' => quoted_end(text, at + 1, '\''),
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn quoted_end(text: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn find(text: &[char], start: usize, wanted: &[char]) -> usize {
    (start..text.len())
        .find(|&at| text[at..].starts_with(wanted))
        .unwrap_or(text.len())
}

/// The lines before the tests module, which by convention ends a file.
fn without_tests(code: &str) -> Vec<&str> {
    let lines: Vec<&str> = code.lines().collect();
    let tests = lines.windows(2).position(|pair| {
        pair[0].starts_with("#[cfg(test)]") && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    // Between the two, other attributes may stand.
    let tests = tests.or_else(|| {
        lines
            .iter()
            .position(|line| line.starts_with("mod tests {"))
    });
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

fn allowed(path: &str, owners: &[&str]) -> bool {
    owners.iter().any(|owner| match owner.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None if owner.ends_with('/') => path.starts_with(owner),
        None => path == *owner,
    })
}

/// Whether a line names the crate: `name::`, or `use name` and `extern crate name` whatever follows.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = &line[..at];
        let after = &line[at + name.len()..];
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        // `self::name::` and `crate::name::` are a module of ours; `::name::` alone is the crate.
        let own_module = before
            .strip_suffix("::")
            .is_some_and(|path| path.ends_with(part_of_word));
        let imported =
            before.trim_end().ends_with("use") || before.trim_end().ends_with("extern crate");
        !before.ends_with(part_of_word)
            && !own_module
            && !after.starts_with(part_of_word)
            && (after.starts_with("::") || imported)
    })
}

fn owner_violations(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let mut found = Vec::new();
    for (name, owners) in OWNERS {
        if allowed(&source.path, owners) {
            continue;
        }
        for (index, line) in code.lines().enumerate() {
            if names(line, name) {
                found.push(format!(
                    "{}:{}: {name} belongs to {owners:?}",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    if source.is_test() {
        return found;
    }
    for (call, owners) in CLOCKS {
        for (index, line) in without_tests(&code).iter().enumerate() {
            if line.contains(call) && !allowed(&source.path, owners) {
                found.push(format!(
                    "{}:{}: {call} belongs to {owners:?}",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    found
}

fn direction_violations(manifest_path: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().expect("a manifest that cargo accepted");
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_table())
        .flat_map(toml::Table::keys)
        .filter(|name| name.starts_with("quorate") && !allowed.contains(&name.as_str()))
        .map(|name| format!("{manifest_path}: must not depend on {name}"))
        .collect()
}

fn size_violations(
    source: &Source,
    long_files: &[(&str, usize)],
    long_functions: &[(&str, usize)],
) -> Vec<String> {
    let code = code_of(&source.text);
    let lines = without_tests(&code);
    let limit_of = |name: &str, exceptions: &[(&str, usize)], usual: usize| {
        exceptions
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(usual, |(_, lines)| *lines)
    };
    let mut found = Vec::new();
    let limit = limit_of(&source.path, long_files, FILE_LINES_MAX);
    if !source.is_test() && lines.len() > limit {
        found.push(format!(
            "{}: {} lines without tests, at most {limit}",
            source.path,
            lines.len()
        ));
    }
    if source.is_test() {
        // Tables of cases are data.
        return found;
    }
    for (name, length) in functions(&lines) {
        let key = format!("{} {name}", source.path);
        let limit = limit_of(&key, long_functions, FUNCTION_LINES_MAX);
        if length > limit {
            found.push(format!("{key}: {length} lines, at most {limit}"));
        }
    }
    found
}

/// Name and length of every function with a body of its own lines. Relies on rustfmt: a body that is opened on a line
/// of some indent is closed by a brace at the same indent.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let Some(name) = function_name(line) else {
            continue;
        };
        let closing = format!("{indent}}}");
        for (end, line) in lines.iter().enumerate().skip(start) {
            let ended = line.trim_end();
            let on_one_line = end == start && ended.ends_with('}');
            let no_body = ended.ends_with(';')
                && !lines[start..=end]
                    .iter()
                    .any(|line| line.trim_end().ends_with('{'));
            if on_one_line || no_body {
                break;
            }
            if ended == closing {
                found.push((name, end - start + 1));
                break;
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let word = words.find(|word| {
        let qualifier = ["pub", "const", "async", "unsafe", "extern"].contains(word)
            || word.starts_with("pub(");
        !qualifier
    })?;
    let name = words.next()?;
    (word == "fn").then(|| {
        name.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    })
}

fn opening_violations(source: &Source) -> Vec<String> {
    let whole_is_tests =
        source.path.ends_with("/tests.rs") || source.path.contains("/src/") && source.is_test();
    if whole_is_tests || source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!(
        "{}: opens without //!: what it owns and must not do",
        source.path
    )]
}

fn silence_violations(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    code.lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let attribute = line.contains("#[") || line.contains("#![");
            let rule = if line.contains("#[ignore") {
                "a test that never runs proves nothing"
            } else if attribute && line.contains("allow(") {
                "silence a lint with expect and a reason"
            } else {
                return None;
            };
            Some(format!("{}:{}: {rule}", source.path, index + 1))
        })
        .collect()
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the package lies inside the workspace")
        .to_path_buf()
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut folders: Vec<PathBuf> = DIRECTIONS
        .iter()
        .map(|(folder, _)| root.join(folder))
        .collect();
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        if !seen.insert(folder.clone()) {
            continue;
        }
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8 source");
                let path = path.strip_prefix(&root).expect("below the root");
                let path = path.to_str().expect("an ASCII path").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(
        found.len() > 50,
        "found only {} files: the walk is broken",
        found.len()
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: impl Fn(&Source) -> Vec<String>) {
        let mut found: Vec<String> = sources().iter().flat_map(rule).collect();
        found.sort();
        assert!(
            found.is_empty(),
            "{} violations:\n{}",
            found.len(),
            found.join("\n")
        );
    }

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn each_outside_crate_and_clock_has_one_owner() {
        check(owner_violations);
    }

    #[test]
    fn crates_depend_one_way() {
        let mut found = Vec::new();
        for (folder, allowed) in DIRECTIONS {
            let path = format!("{folder}/Cargo.toml");
            let text = fs::read_to_string(root().join(&path)).expect("a manifest");
            found.extend(direction_violations(&path, &text, allowed));
        }
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn files_and_functions_stay_small() {
        check(|source| size_violations(source, &LONG_FILES, &LONG_FUNCTIONS));
    }

    #[test]
    fn every_exception_is_still_needed() {
        let sources = sources();
        let code = |path: &str| {
            let source = sources.iter().find(|source| source.path == path);
            code_of(&source.expect("a listed file exists").text)
        };
        for (path, _) in LONG_FILES {
            let length = without_tests(&code(path)).len();
            assert!(
                length > FILE_LINES_MAX,
                "{path} has {length} lines: remove its entry"
            );
        }
        for (key, _) in LONG_FUNCTIONS {
            let (path, name) = key.split_once(' ').expect("a file and a function");
            let code = code(path);
            let found = functions(&without_tests(&code));
            let lengths = found
                .iter()
                .filter(|(found, _)| found == name)
                .map(|(_, length)| *length);
            let length = lengths.max().expect("a listed function exists");
            assert!(
                length > FUNCTION_LINES_MAX,
                "{key} has {length} lines: remove its entry"
            );
        }
    }

    #[test]
    fn every_module_says_what_it_owns() {
        check(opening_violations);
    }

    #[test]
    fn nothing_is_ignored_or_silenced() {
        check(silence_violations);
    }

    #[test]
    fn the_owner_rule_catches_a_foreign_name() {
        for text in [
            "use sled::Db;",
            "use sled;",
            "let tree = ::sled::open(path);",
            "#[from] sled::Error",
        ] {
            assert_eq!(
                owner_violations(&source("agent/src/shell.rs", text)).len(),
                1,
                "{text}"
            );
            assert!(
                owner_violations(&source("agent/src/store/open.rs", text)).is_empty(),
                "{text}"
            );
        }
        for text in [
            "// sled::Db",
            "let s = \"sled::Db\";",
            "let s = r#\"use sled\"#;",
            "use bobsled::Db;",
            "use crate::sled::Db;",
        ] {
            assert!(
                owner_violations(&source("agent/src/shell.rs", text)).is_empty(),
                "{text}"
            );
        }
    }

    #[test]
    fn the_clock_rule_catches_a_reading_outside_tests_only() {
        let call = "fn now() -> Instant {\n    Instant::now()\n}\n";
        assert_eq!(
            owner_violations(&source("agent/src/sensing.rs", call)).len(),
            1
        );
        assert!(owner_violations(&source("agent/src/clock.rs", call)).is_empty());
        let in_tests = format!("#[cfg(test)]\nmod tests {{\n{call}}}\n");
        assert!(owner_violations(&source("agent/src/sensing.rs", &in_tests)).is_empty());
    }

    #[test]
    fn the_direction_rule_catches_every_kind_of_dependency() {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let manifest = format!("[{section}]\nserde = \"1\"\nquorate-models.workspace = true\n");
            assert_eq!(
                direction_violations("agent/core/Cargo.toml", &manifest, &[]).len(),
                1,
                "{section}"
            );
            assert!(
                direction_violations("agent/Cargo.toml", &manifest, &["quorate-models"]).is_empty()
            );
        }
    }

    #[test]
    fn the_size_rule_catches_one_line_too_many() {
        let file = |lines: usize| source("agent/src/shell.rs", &"const A: u8 = 0;\n".repeat(lines));
        assert!(size_violations(&file(FILE_LINES_MAX), &[], &[]).is_empty());
        assert_eq!(
            size_violations(&file(FILE_LINES_MAX + 1), &[], &[]).len(),
            1
        );
        let listed = [("agent/src/shell.rs", FILE_LINES_MAX + 1)];
        assert!(size_violations(&file(FILE_LINES_MAX + 1), &listed, &[]).is_empty());
        assert_eq!(
            size_violations(&file(FILE_LINES_MAX + 2), &listed, &[]).len(),
            1
        );

        let function = |lines: usize| {
            let body = "        step();\n".repeat(lines - 2);
            source(
                "agent/src/shell.rs",
                &format!("impl A {{\n    pub(crate) const fn long() {{\n{body}    }}\n}}\n"),
            )
        };
        assert!(size_violations(&function(FUNCTION_LINES_MAX), &[], &[]).is_empty());
        assert_eq!(
            size_violations(&function(FUNCTION_LINES_MAX + 1), &[], &[]).len(),
            1
        );
    }

    #[test]
    fn a_declaration_without_a_body_is_no_function() {
        let lines = [
            "trait A {",
            "    fn a();",
            "    fn b(",
            "        c: u8,",
            "    );",
            "    fn d() {}",
            "}",
        ];
        assert!(functions(&lines).is_empty());
    }

    #[test]
    fn the_opening_rule_catches_a_bare_module() {
        assert_eq!(
            opening_violations(&source("agent/src/shell.rs", "use core::fmt;\n")).len(),
            1
        );
        assert!(opening_violations(&source("agent/src/shell.rs", "//! The loop.\n")).is_empty());
    }

    #[test]
    fn the_silence_rule_catches_both() {
        for text in [
            "#[ignore]",
            "#[ignore = \"slow\"]",
            "#[allow(dead_code)]",
            "#![allow(unused)]",
            "#[cfg_attr(test, allow(unused))]",
        ] {
            assert_eq!(
                silence_violations(&source("agent/src/shell.rs", text)).len(),
                1,
                "{text}"
            );
        }
        assert!(
            silence_violations(&source(
                "agent/src/shell.rs",
                "#[expect(unused, reason = \"allow(ed)\")]"
            ))
            .is_empty()
        );
        assert!(
            silence_violations(&source("agent/src/shell.rs", "if self.allow(sensor) {")).is_empty()
        );
    }
}
