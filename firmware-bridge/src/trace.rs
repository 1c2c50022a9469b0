//! Recorded traces: the replay source. Reads the CSV form of design.md as a stream.
//!
//! Owns the grammar of a trace and the words that say where a file breaks it. It must not decide what a
//! value means: `NaN` and `inf` pass through as the sensor delivered them.
//!
//! Form: the first line is `time_s` and then one sensor id per column. Every further line has exactly as
//! many cells. `time_s` is a finite decimal number of seconds and grows from line to line. A cell is empty
//! (no sample arrived), `NaN`, `inf`, `-inf`, or a decimal number. Blanks around a cell, quotes around a
//! cell, `\r\n`, a byte order mark, empty lines and a missing last line end are accepted.
//!
//! Invariants: memory is bounded whatever the input (a line has at most [`LINE_BYTES_MAX`] bytes, a header
//! at most [`SENSORS_MAX`] sensors); no allocation per row; the first error ends the trace.

mod error;
mod line_limit;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use csv::{ByteRecord, ReaderBuilder, Terminator};

use error::quote;
use line_limit::LineLimit;

pub use error::{TraceError, TraceProblem};

/// The longest line, in bytes with its line end.
pub const LINE_BYTES_MAX: u64 = 64 * 1024;
/// The most sensor columns.
pub const SENSORS_MAX: usize = 1024;
/// The longest sensor id, in bytes.
pub const SENSOR_ID_BYTES_MAX: usize = 128;
/// The name that the first column must have.
pub const TIME_COLUMN: &str = "time_s";

/// How much is read at once. Larger buffers measured no faster.
const BUFFER_BYTES: usize = 64 * 1024;

/// What one sensor delivered at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    /// No sample arrived.
    Absent,
    /// The sensor delivered this value, which may be `NaN` or infinite.
    Value(f64),
}

/// One line of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'trace> {
    /// Seconds on the trace's own time line; finite and greater than in every row before.
    pub time_s: f64,
    /// One cell per sensor, in the order of [`Trace::sensors`].
    pub cells: &'trace [Cell],
}

/// A trace that is being read.
pub struct Trace {
    name: String,
    reader: csv::Reader<LineLimit>,
    record: ByteRecord,
    sensors: Vec<String>,
    cells: Vec<Cell>,
    time_s_last: Option<f64>,
    /// Set by the first error: what follows a torn line cannot be trusted.
    ended: bool,
}

impl Trace {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// When the file cannot be opened or read, or its header is at fault.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_reader(name, file),
            Err(error) => Err(TraceError {
                file: name,
                line: 0,
                column: None,
                problem: TraceProblem::Open(error),
            }),
        }
    }

    /// Reads a trace from anything, for example bytes in memory; `name` stands for the file in errors.
    ///
    /// # Errors
    /// When the header cannot be read or is at fault.
    pub fn from_reader(
        name: impl Into<String>,
        reader: impl Read + Send + 'static,
    ) -> Result<Self, TraceError> {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            // The number of cells is checked here, where the error can name the column.
            .flexible(true)
            // With this terminator the line count is exact; the `\r` of a `\r\n` is trimmed with the blanks.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(LineLimit::new(Box::new(reader)));
        let mut trace = Self {
            name: name.into(),
            reader,
            record: ByteRecord::new(),
            sensors: Vec::new(),
            cells: Vec::new(),
            time_s_last: None,
            ended: false,
        };
        trace.read_header()?;
        Ok(trace)
    }

    /// The sensor ids of the header, in column order.
    #[must_use]
    pub fn sensors(&self) -> &[String] {
        &self.sensors
    }

    /// The next row, or `None` after the last. After an error there are no more rows.
    ///
    /// # Errors
    /// When the next line breaks the form of a trace or cannot be read.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, TraceError> {
        if self.ended {
            return Ok(None);
        }
        match self.parse_row() {
            Ok(Some(time_s)) => Ok(Some(Row {
                time_s,
                cells: &self.cells,
            })),
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(fault) => {
                self.ended = true;
                Err(self.locate(fault))
            }
        }
    }

    fn read_header(&mut self) -> Result<(), TraceError> {
        let header = match self.read_record() {
            Ok(true) => parse_header(&self.record),
            Ok(false) => Err(Fault::line(TraceProblem::Empty)),
            Err(fault) => Err(fault),
        };
        match header {
            Ok(sensors) => {
                self.cells = Vec::with_capacity(sensors.len());
                self.sensors = sensors;
                Ok(())
            }
            Err(fault) => Err(self.locate(fault)),
        }
    }

    /// Fills `cells` from the next line and returns its time.
    fn parse_row(&mut self) -> Result<Option<f64>, Fault> {
        if !self.read_record()? {
            return Ok(None);
        }
        let expected = self.sensors.len() + 1;
        if self.record.len() != expected {
            return Err(Fault::line(TraceProblem::CellCount {
                found: self.record.len(),
                expected,
            }));
        }
        let mut texts = self.record.iter().map(<[u8]>::trim_ascii);
        let time = texts.next().expect("the record has at least one cell");
        let time_s = parse_time(time, self.time_s_last).map_err(|problem| Fault::at(0, problem))?;
        self.cells.clear();
        for (index, text) in texts.enumerate() {
            let cell = parse_cell(text).map_err(|problem| Fault::at(index + 1, problem))?;
            self.cells.push(cell);
        }
        self.time_s_last = Some(time_s);
        Ok(Some(time_s))
    }

    /// Reads the next line that is not blank into `record`; false at the end.
    fn read_record(&mut self) -> Result<bool, Fault> {
        loop {
            let start = self.reader.position().byte();
            self.reader.get_mut().allow_until(start);
            match self.reader.read_byte_record(&mut self.record) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => return Err(Fault::line(TraceProblem::from_csv(error))),
            }
            if self.reader.position().byte().saturating_sub(start) > LINE_BYTES_MAX {
                return Err(Fault::line(TraceProblem::LineTooLong));
            }
            let blank = self.record.len() == 1 && self.record[0].trim_ascii().is_empty();
            if !blank {
                return Ok(true);
            }
        }
    }

    /// Says where a fault is: the line on which the record starts, and the column's name.
    fn locate(&self, fault: Fault) -> TraceError {
        let complete = !matches!(
            fault.problem,
            TraceProblem::Read(_) | TraceProblem::Empty | TraceProblem::LineTooLong
        );
        let line_now = self.reader.position().line();
        let line = if complete {
            // The record's own line end was counted, and those inside its quotes.
            let inside = self.record.as_slice().iter().filter(|&&byte| byte == b'\n');
            line_now.saturating_sub(1 + u64::try_from(inside.count()).unwrap_or(0))
        } else {
            self.record.position().map_or(line_now, csv::Position::line)
        };
        let column = fault.column.map(|index| match index.checked_sub(1) {
            None => TIME_COLUMN.to_owned(),
            Some(sensor) => self
                .sensors
                .get(sensor)
                .cloned()
                .unwrap_or_else(|| format!("number {}", index + 1)),
        });
        TraceError {
            file: self.name.clone(),
            line: line.max(1),
            column,
            problem: fault.problem,
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Trace")
            .field("name", &self.name)
            .field("line", &self.reader.position().line())
            .field("sensors", &self.sensors.len())
            .finish_non_exhaustive()
    }
}

/// A problem before its place is known. Column 0 is the time.
struct Fault {
    column: Option<usize>,
    problem: TraceProblem,
}

impl Fault {
    fn line(problem: TraceProblem) -> Self {
        Self {
            column: None,
            problem,
        }
    }

    fn at(column: usize, problem: TraceProblem) -> Self {
        Self {
            column: Some(column),
            problem,
        }
    }
}

fn parse_header(record: &ByteRecord) -> Result<Vec<String>, Fault> {
    let mut columns = record.iter().map(<[u8]>::trim_ascii);
    let first = columns.next().unwrap_or_default();
    if first != TIME_COLUMN.as_bytes() {
        return Err(Fault::line(TraceProblem::FirstColumn {
            found: quote(first),
        }));
    }
    let found = record.len() - 1;
    if found > SENSORS_MAX {
        return Err(Fault::line(TraceProblem::SensorCount { found }));
    }
    let mut seen = BTreeSet::new();
    for (index, bytes) in columns.enumerate() {
        let column = index + 1;
        let id = utf8(bytes).map_err(|problem| Fault::at(column, problem))?;
        let fits = (1..=SENSOR_ID_BYTES_MAX).contains(&id.len());
        if !fits || id.chars().any(char::is_control) {
            let found = quote(bytes);
            return Err(Fault::at(column, TraceProblem::SensorId { found }));
        }
        if !seen.insert(id) {
            let found = quote(bytes);
            return Err(Fault::at(column, TraceProblem::SensorTwice { found }));
        }
    }
    let ids = record.iter().skip(1).map(<[u8]>::trim_ascii);
    Ok(ids
        .map(|id| String::from_utf8_lossy(id).into_owned())
        .collect())
}

fn parse_time(text: &[u8], previous: Option<f64>) -> Result<f64, TraceProblem> {
    let time_s = utf8(text)?
        .parse::<f64>()
        .ok()
        .filter(|time_s| time_s.is_finite())
        .ok_or_else(|| TraceProblem::Time { found: quote(text) })?;
    match previous {
        Some(previous) if time_s <= previous => Err(TraceProblem::TimeNotIncreasing {
            found: time_s,
            previous,
        }),
        _ => Ok(time_s),
    }
}

fn parse_cell(text: &[u8]) -> Result<Cell, TraceProblem> {
    if text.is_empty() {
        return Ok(Cell::Absent);
    }
    // Rust's own parser takes exactly decimal numbers, `nan` and `inf`/`infinity` in any case.
    utf8(text)?
        .parse::<f64>()
        .map(Cell::Value)
        .map_err(|_| TraceProblem::Number { found: quote(text) })
}

fn utf8(bytes: &[u8]) -> Result<&str, TraceProblem> {
    core::str::from_utf8(bytes).map_err(|_| TraceProblem::InvalidUtf8 {
        found: quote(bytes),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::{Cell, LINE_BYTES_MAX, SENSORS_MAX, Trace, TraceError, TraceProblem};
    use proptest::prelude::*;
    use std::io::{self, Cursor, Read};
    use std::path::Path;

    /// All rows, with `None` for an empty cell.
    type Rows = Vec<(f64, Vec<Option<f64>>)>;

    fn read(bytes: impl Into<Vec<u8>>) -> Result<(Vec<String>, Rows), TraceError> {
        let mut trace = Trace::from_reader("t.csv", Cursor::new(bytes.into()))?;
        let mut rows = Rows::new();
        while let Some(row) = trace.next_row()? {
            let cells = row.cells.iter().map(|cell| match cell {
                Cell::Absent => None,
                Cell::Value(value) => Some(*value),
            });
            rows.push((row.time_s, cells.collect()));
        }
        assert!(trace.next_row().unwrap().is_none(), "the end stays the end");
        Ok((trace.sensors().to_vec(), rows))
    }

    fn check(text: &str, sensors: &[&str], rows: &[(f64, &[Option<f64>])]) {
        let (found_sensors, found_rows) = read(text).unwrap();
        assert_eq!(found_sensors, sensors, "{text:?}");
        // Compared as text, because NaN is not equal to itself.
        assert_eq!(format!("{found_rows:?}"), format!("{rows:?}"), "{text:?}");
    }

    fn check_error(bytes: impl Into<Vec<u8>>, message: &str) {
        let bytes = bytes.into();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        let error = read(bytes).unwrap_err();
        assert_eq!(error.to_string(), message, "{shown:?}");
    }

    #[test]
    fn reads_values_absences_and_special_numbers() {
        check(
            "time_s,a,b\n0,1.5,\n0.5,,-2e3\n1,NaN,nan\n2,inf,-INF\n",
            &["a", "b"],
            &[
                (0.0, &[Some(1.5), None]),
                (0.5, &[None, Some(-2000.0)]),
                (1.0, &[Some(f64::NAN), Some(f64::NAN)]),
                (2.0, &[Some(f64::INFINITY), Some(f64::NEG_INFINITY)]),
            ],
        );
    }

    #[test]
    fn accepts_what_other_programs_write() {
        let row: &[(f64, &[Option<f64>])] = &[(1.0, &[Some(2.0), Some(3.0)])];
        for text in [
            "time_s,a,b\n1,2,3",
            "time_s,a,b\r\n1,2,3\r\n",
            "\u{feff}time_s,a,b\n1,2,3\n",
            "\"time_s\",\"a\",\"b\"\r\n\"1\",\"2\",\"3\"\r\n",
            " time_s , a , b \n 1 , 2 ,\t3 \n",
            "\ntime_s,a,b\n\n\r\n1,2,3\n\n  \n",
        ] {
            check(text, &["a", "b"], row);
        }
        check("time_s,a\n", &["a"], &[]);
        check("time_s\n0\n1\n", &[], &[(0.0, &[]), (1.0, &[])]);
        check("time_s,a\n-5,\n", &["a"], &[(-5.0, &[None])]);
    }

    #[test]
    fn a_torn_line_names_the_line_and_the_counts() {
        for line_end in ["\n", "\r\n"] {
            let text = ["time_s,a,b", "0,1,2", "", "1,1", ""].join(line_end);
            check_error(
                text,
                "t.csv, line 4: the line has 2 cells: expected 3, one for time_s and one per sensor",
            );
        }
        check_error(
            "time_s,a\n0,1,2\n",
            "t.csv, line 2: the line has 3 cells: expected 2, one for time_s and one per sensor",
        );
        check_error(
            "time_s,a\n0,1\n1",
            "t.csv, line 3: the line has 1 cells: expected 2, one for time_s and one per sensor",
        );
    }

    #[test]
    fn a_bad_cell_names_line_and_column() {
        check_error(
            "time_s,a,b\n0,1,2\n1,1,2x.5\n",
            "t.csv, line 3, column b: \"2x.5\" is not a number: expected a decimal number, NaN, inf, -inf, \
             or an empty cell",
        );
        check_error(
            "time_s,a\nsoon,1\n",
            "t.csv, line 2, column time_s: \"soon\" is not a time: expected a finite decimal number of seconds",
        );
        for time in ["", "NaN", "inf", "1e999"] {
            check_error(
                format!("time_s,a\n{time},1\n"),
                &format!(
                    "t.csv, line 2, column time_s: \"{time}\" is not a time: expected a finite decimal \
                     number of seconds"
                ),
            );
        }
        check_error(
            b"time_s,a\n0,\xff\xfe\n".to_vec(),
            "t.csv, line 2, column a: \"\u{fffd}\u{fffd}\" is not valid UTF-8: expected text",
        );
        for text in ["1_000", "0x10", "1.5.2", "--1", "\u{661}"] {
            let error = read(format!("time_s,a\n0,{text}\n")).unwrap_err();
            assert!(
                matches!(error.problem, TraceProblem::Number { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn quoted_text_is_short_and_harmless() {
        let long = "x".repeat(1000);
        let error = read(format!("time_s,a\n0,\u{1b}[2J{long}\n")).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("\\u{1b}[2Jxxx"), "{message}");
        assert!(message.contains("x...\""), "{message}");
        assert!(message.len() < 250, "{message}");
    }

    #[test]
    fn time_must_grow() {
        for time in ["1", "0.5"] {
            check_error(
                format!("time_s,a\n0,1\n1,1\n{time},1\n"),
                &format!(
                    "t.csv, line 4, column time_s: time {time} is not after 1: expected strictly increasing times"
                ),
            );
        }
    }

    #[test]
    fn a_wrong_header_is_named() {
        let id_rule = "expected 1 to 128 bytes without control characters";
        for (text, message) in [
            (
                "",
                "line 1: the file is empty: expected a header, time_s and then one sensor id per column".into(),
            ),
            (
                "0,1,2\n",
                "line 1: the first column is \"0\": expected time_s, and cells separated by commas".into(),
            ),
            (
                "time_s;a\n0;1\n",
                "line 1: the first column is \"time_s;a\": expected time_s, and cells separated by commas".into(),
            ),
            (
                "time_s,a,,b\n",
                format!("line 1, column number 3: \"\" is not a sensor id: {id_rule}"),
            ),
            (
                "time_s,a\u{7}\n",
                format!("line 1, column number 2: \"a\\u{{7}}\" is not a sensor id: {id_rule}"),
            ),
            (
                "time_s,a,b,a\n",
                "line 1, column number 4: sensor \"a\" stands twice in the header: expected every id once".into(),
            ),
        ] {
            check_error(text, &format!("t.csv, {message}"));
        }
        assert!(read(format!("time_s,{}\n", "x".repeat(128))).is_ok());
        assert!(read(format!("time_s,{}\n", "x".repeat(129))).is_err());
    }

    #[test]
    fn the_greatest_number_of_sensors_just_fits() {
        let header = |count: usize| {
            let ids: Vec<String> = (0..count).map(|index| format!(",s{index}")).collect();
            format!("time_s{}\n", ids.concat())
        };
        assert_eq!(read(header(SENSORS_MAX)).unwrap().0.len(), SENSORS_MAX);
        check_error(
            header(SENSORS_MAX + 1),
            "t.csv, line 1: the header has 1025 sensors: expected at most 1024",
        );
    }

    #[test]
    fn the_longest_line_just_fits() {
        let text = |blanks: usize| format!("time_s,a\n0,{}1\n1,2\n", " ".repeat(blanks));
        let fits = usize::try_from(LINE_BYTES_MAX).unwrap() - "0,1\n".len();
        assert_eq!(read(text(fits)).unwrap().1.len(), 2);
        let message = "t.csv, line 2: the line (or a run of blank lines) is longer than 65536 bytes: \
                       expected shorter lines, and every quote closed";
        check_error(text(fits + 1), message);
    }

    #[test]
    fn an_endless_line_ends() {
        let mut endless = Vec::from(*b"time_s,a\n0,1\n1,\"");
        endless.resize(1 << 20, b'\n');
        let error = read(endless).unwrap_err();
        assert!(matches!(error.problem, TraceProblem::LineTooLong));
        assert_eq!(error.line, 3);
        let endless = Trace::from_reader("t.csv", io::repeat(b',')).unwrap_err();
        assert!(matches!(endless.problem, TraceProblem::LineTooLong));
    }

    #[test]
    fn an_error_of_the_medium_is_an_error_and_not_an_end() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("medium broke"))
            }
        }
        let reader = Cursor::new(&b"time_s,a\n0,1\n1,"[..]).chain(Broken);
        let mut trace = Trace::from_reader("t.csv", reader).unwrap();
        assert!(trace.next_row().unwrap().is_some());
        let error = trace.next_row().unwrap_err();
        assert_eq!(
            error.to_string(),
            "t.csv, line 3: cannot be read: medium broke"
        );
        assert!(trace.next_row().unwrap().is_none());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Trace::open(Path::new("no/such/trace.csv")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no/such/trace.csv: cannot be opened: "),
            "{error}"
        );
    }

    #[test]
    fn a_file_reads_as_its_bytes_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        std::fs::write(&path, "time_s,a\n0,1\n").unwrap();
        let mut trace = Trace::open(&path).unwrap();
        let row = trace.next_row().unwrap().unwrap();
        assert_eq!((row.time_s, row.cells), (0.0, &[Cell::Value(1.0)][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(bytes);
        }

        /// Closer to a trace, so that rows are reached: its own alphabet after a good header.
        #[test]
        fn no_near_trace_makes_it_panic(text in "[0-9,.\"\r\n eEnNaAiIfF+-]{0,200}") {
            if let Ok((sensors, rows)) = read(format!("time_s,a,b\n{text}")) {
                prop_assert!(rows.iter().all(|(time_s, cells)| time_s.is_finite() && cells.len() == sensors.len()));
                prop_assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
            }
        }

        /// What was written is what is read, to the last bit.
        #[test]
        fn values_survive_the_way(values in proptest::collection::vec(any::<f64>(), 1..20)) {
            let mut text = String::from("time_s,a\n");
            for (time, value) in values.iter().enumerate() {
                text.push_str(&format!("{time},{value:?}\n"));
            }
            let (_, rows) = read(text).unwrap();
            prop_assert_eq!(rows.len(), values.len());
            for ((_, cells), value) in rows.iter().zip(values) {
                let found = cells[0].unwrap();
                prop_assert!(found.to_bits() == value.to_bits() || (found.is_nan() && value.is_nan()));
            }
        }
    }
}
