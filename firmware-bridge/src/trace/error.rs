//! What can be wrong with a trace, in words for the person who made it.
//!
//! Invariant: text from the file is quoted shortened and with control characters escaped.

use std::io;

use super::line_limit::is_line_limit;
use super::{LINE_BYTES_MAX, SENSOR_ID_BYTES_MAX, SENSORS_MAX};

/// How much of a faulty cell an error quotes, in characters.
const QUOTE_CHARACTERS_MAX: usize = 40;

/// Where a trace breaks its form, and what was expected there.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.describe())]
pub struct TraceError {
    /// The file, or the name that stands for it.
    pub file: String,
    /// The line, counted from 1; 0 when the file could not be opened.
    pub line: u64,
    /// The column's name, where one cell is at fault.
    pub column: Option<String>,
    /// What is wrong.
    #[source]
    pub problem: TraceProblem,
}

impl TraceError {
    fn describe(&self) -> String {
        let line = match self.line {
            0 => String::new(),
            line => format!(", line {line}"),
        };
        let column = match &self.column {
            None => String::new(),
            Some(column) => format!(", column {}", quote(column.as_bytes())),
        };
        format!("{}{line}{column}: {}", self.file, self.problem)
    }
}

/// What is wrong in a trace. Quoted text is shortened and free of control characters.
#[derive(Debug, thiserror::Error)]
pub enum TraceProblem {
    /// The file could not be opened.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// The file could not be read on.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// There is no header.
    #[error("the file is empty: expected a header, time_s and then one sensor id per column")]
    Empty,
    /// The first column has another name.
    #[error("the first column is \"{found}\": expected time_s, and cells separated by commas")]
    FirstColumn {
        /// What stands there.
        found: String,
    },
    /// A sensor id is empty, too long, or holds a control character.
    #[error(
        "\"{found}\" is not a sensor id: expected 1 to {SENSOR_ID_BYTES_MAX} bytes without control characters"
    )]
    SensorId {
        /// What stands there.
        found: String,
    },
    /// Two columns have the same sensor id.
    #[error("sensor \"{found}\" stands twice in the header: expected every id once")]
    SensorTwice {
        /// The id.
        found: String,
    },
    /// The header has too many columns.
    #[error("the header has {found} sensors: expected at most {SENSORS_MAX}")]
    SensorCount {
        /// How many there are.
        found: usize,
    },
    /// A line is torn: it has too few or too many cells.
    #[error("the line has {found} cells: expected {expected}, one for time_s and one per sensor")]
    CellCount {
        /// How many cells the line has.
        found: usize,
        /// How many the header has.
        expected: usize,
    },
    /// A line does not end.
    #[error(
        "the line (or a run of blank lines) is longer than {LINE_BYTES_MAX} bytes: expected shorter lines, and every quote closed"
    )]
    LineTooLong,
    /// A cell is no text.
    #[error("\"{found}\" is not valid UTF-8: expected text")]
    InvalidUtf8 {
        /// What stands there, with replacement characters.
        found: String,
    },
    /// A cell is no number.
    #[error(
        "\"{found}\" is not a number: expected a decimal number, NaN, inf, -inf, or an empty cell"
    )]
    Number {
        /// What stands there.
        found: String,
    },
    /// A time is no finite number.
    #[error("\"{found}\" is not a time: expected a finite decimal number of seconds")]
    Time {
        /// What stands there.
        found: String,
    },
    /// A time is not after the one before.
    #[error("time {found} is not after {previous}: expected strictly increasing times")]
    TimeNotIncreasing {
        /// This line's time, in seconds.
        found: f64,
        /// The time before, in seconds.
        previous: f64,
    },
}

impl TraceProblem {
    pub(super) fn from_csv(error: csv::Error) -> Self {
        match error.into_kind() {
            csv::ErrorKind::Io(error) if is_line_limit(&error) => Self::LineTooLong,
            csv::ErrorKind::Io(error) => Self::Read(error),
            // Byte records, flexible and without serde, raise no other kind.
            other => Self::Read(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// Outside text as an error may show it: shortened, control characters escaped.
pub(super) fn quote(bytes: &[u8]) -> String {
    // Four bytes are the most that one character takes.
    let head = &bytes[..bytes.len().min(4 * QUOTE_CHARACTERS_MAX)];
    let text = String::from_utf8_lossy(head);
    let mut quoted: String = text
        .chars()
        .take(QUOTE_CHARACTERS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().count() > QUOTE_CHARACTERS_MAX || head.len() < bytes.len() {
        quoted.push_str("...");
    }
    quoted
}
