//! Modbus devices: registers and bits over a serial line (RTU) or TCP, several values in one request.
//!
//! Owns which values share a request, and how registers become a number. Must not: open a line (linux/modbus.rs does), or
//! read a clock.
//!
//! Invariants: one request at a time on a line; a request that is not answered within its time is a [`SampleFault::Timeout`]
//! and what comes later is thrown away; an exception of the device is its cause, never a value.

pub mod frame;

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::SampleFault;
use crate::chips::{CHANNELS_MAX, Chip, Values};
use crate::config::ConfigError;

use frame::{FRAME_BYTES_MAX, Framing, REGISTERS_MAX, Request, Table};

/// What a value is in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// One bit: 0 or 1.
    Bit,
    /// One register without a sign.
    U16,
    /// One register with a sign.
    I16,
    /// Two registers without a sign.
    U32,
    /// Two registers with a sign.
    I32,
    /// Two registers, IEEE 754.
    F32,
    /// Four registers, IEEE 754.
    F64,
}

impl ValueKind {
    /// How many bits or registers it takes.
    #[must_use]
    pub const fn count(self) -> u16 {
        match self {
            Self::Bit | Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::F64 => 4,
        }
    }
}

/// One value of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusConfig {
    /// The device on the line, 1 to 247; 0 and above also over TCP.
    pub unit: u8,
    /// Where it stands.
    pub table: Table,
    /// Its first bit or register, from 0.
    pub address: u16,
    /// What it is.
    pub kind: ValueKind,
    /// The low word comes first.
    pub words_swapped: bool,
    /// The low byte of every word comes first.
    pub bytes_swapped: bool,
    /// Multiplies what stands in the registers.
    pub scale: f64,
    /// Is added to it then.
    pub offset: f64,
}

impl fmt::Display for ModbusConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "unit {} {:?} {}",
            self.unit, self.table, self.address
        )
    }
}

impl ModbusConfig {
    /// Checks the relations of the keys.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.table.is_bits() != (self.kind == ValueKind::Bit) {
            let expected = if self.table.is_bits() {
                "bool for coils and discrete inputs"
            } else {
                "u16, i16, u32, i32, f32 or f64 for registers"
            };
            return Err(ConfigError::number(
                "type",
                format!("{:?}", self.kind),
                expected,
            ));
        }
        if self.address.checked_add(self.kind.count() - 1).is_none() {
            let expected = "the last register at most 65535";
            return Err(ConfigError::number("address", self.address, expected));
        }
        if !(self.scale.is_finite() && self.scale != 0.0) {
            let expected = "a finite number other than 0";
            return Err(ConfigError::number("scale", self.scale, expected));
        }
        if !self.offset.is_finite() {
            return Err(ConfigError::number(
                "offset",
                self.offset,
                "a finite number",
            ));
        }
        Ok(())
    }

    /// The value in the data of an answer that starts at `start`.
    fn value(&self, start: u16, data: &[u8]) -> Result<f64, SampleFault> {
        let place = usize::from(self.address.saturating_sub(start));
        if self.kind == ValueKind::Bit {
            let byte = data.get(place / 8).ok_or(SampleFault::Malformed)?;
            let bit = f64::from((byte >> (place % 8)) & 1);
            return Ok(bit * self.scale + self.offset);
        }
        let count = usize::from(self.kind.count());
        let bytes = data.get(place * 2..(place + count) * 2);
        let bytes = bytes.ok_or(SampleFault::Malformed)?;
        let mut words: Vec<[u8; 2]> = bytes
            .chunks_exact(2)
            .map(|word| [word[0], word[1]])
            .collect();
        if self.bytes_swapped {
            words.iter_mut().for_each(|word| word.reverse());
        }
        if self.words_swapped {
            words.reverse();
        }
        let raw = match (self.kind, words.as_slice()) {
            (ValueKind::U16, [word]) => f64::from(u16::from_be_bytes(*word)),
            (ValueKind::I16, [word]) => f64::from(i16::from_be_bytes(*word)),
            (kind, [[a, b], [c, d]]) => {
                let four = [*a, *b, *c, *d];
                match kind {
                    ValueKind::U32 => f64::from(u32::from_be_bytes(four)),
                    ValueKind::I32 => f64::from(i32::from_be_bytes(four)),
                    _ => f64::from(f32::from_be_bytes(four)),
                }
            }
            (_, [[a, b], [c, d], [e, f], [g, h]]) => {
                f64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
            }
            _ => return Err(SampleFault::Malformed),
        };
        Ok(raw * self.scale + self.offset)
    }
}

/// Values that are read with one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    request: Request,
    /// At most [`CHANNELS_MAX`]; a channel is a place here.
    items: Vec<ModbusConfig>,
}

impl Group {
    /// The device that answers.
    #[must_use]
    pub const fn unit(&self) -> u8 {
        self.request.unit
    }

    /// The channel of a value; `None` when it is in another group.
    #[must_use]
    pub fn channel(&self, item: &ModbusConfig) -> Option<usize> {
        self.items.iter().position(|known| known == item)
    }
}

/// Groups values so that adjacent ones of a device share a request.
#[must_use]
pub fn groups(items: &[ModbusConfig]) -> Vec<Group> {
    let mut sorted: Vec<&ModbusConfig> = items.iter().collect();
    sorted.sort_by_key(|item| (item.unit, item.table, item.address, item.kind.count()));
    sorted.dedup();
    let mut groups: Vec<Group> = Vec::new();
    for item in sorted {
        let end = u32::from(item.address) + u32::from(item.kind.count());
        if let Some(last) = groups.last_mut() {
            let request = &mut last.request;
            let start = u32::from(request.address);
            let count = (end - start).max(u32::from(request.count));
            let joins = (request.unit, request.table) == (item.unit, item.table)
                && u32::from(item.address) <= start + u32::from(request.count)
                && last.items.len() < CHANNELS_MAX;
            if let Ok(count) = u16::try_from(count)
                && joins
                && count <= REGISTERS_MAX
            {
                request.count = count;
                last.items.push(item.clone());
                continue;
            }
        }
        groups.push(Group {
            request: Request {
                unit: item.unit,
                table: item.table,
                address: item.address,
                count: item.kind.count(),
            },
            items: vec![item.clone()],
        });
    }
    groups
}

/// A line that can be waited for.
pub trait Wire: Send {
    /// Reads what is there, 0 when nothing is.
    ///
    /// # Errors
    /// When the line is gone or fails.
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault>;

    /// Writes what there is room for, and says how much.
    ///
    /// # Errors
    /// When the line is gone or fails.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault>;

    /// Waits until something can be read, for at most so long; whether it can.
    ///
    /// # Errors
    /// When the line fails.
    fn wait(&mut self, timeout_ms: u64) -> Result<bool, SampleFault>;
}

/// Opens a line; called again when it was gone.
pub type OpenWire = Box<dyn FnMut() -> Result<Box<dyn Wire>, SampleFault> + Send>;
/// Monotonic time in milliseconds.
pub type Now = Box<dyn Fn() -> u64 + Send>;

/// Silence before a request on a serial line, in milliseconds: 3.5 characters at 9600 baud, rounded up.
const SILENCE_MS: u64 = 4;
/// How often bytes that nobody asked for are thrown away before a request.
const DRAINS_MAX: usize = 64;

/// One line, with one request at a time.
#[derive(Clone)]
pub struct ModbusLine {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    open: OpenWire,
    now_ms: Now,
    wire: Option<Box<dyn Wire>>,
    tcp: bool,
    transaction: u16,
    timeout_ms: u64,
}

impl fmt::Debug for ModbusLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ModbusLine").finish_non_exhaustive()
    }
}

impl ModbusLine {
    /// A line that is not opened yet; `tcp` chooses the framing, `timeout_ms` is the time for one request.
    #[must_use]
    pub fn new(open: OpenWire, now_ms: Now, tcp: bool, timeout_ms: u64) -> Self {
        let inner = Inner {
            open,
            now_ms,
            wire: None,
            tcp,
            transaction: 0,
            timeout_ms,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn exchange(&self, request: &Request) -> Result<Vec<u8>, SampleFault> {
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| {
            self.inner.clear_poison();
            let mut inner = poisoned.into_inner();
            inner.wire = None;
            inner
        });
        let answer = inner.exchange(request);
        let gone = answer == Err(SampleFault::Missing);
        let unsure = answer
            .as_ref()
            .is_err_and(|fault| !matches!(fault, SampleFault::Exception { .. }));
        // A late answer on a connection would be taken for the next one: a new connection has none.
        if gone || (unsure && inner.tcp) {
            inner.wire = None;
        }
        answer
    }
}

impl Inner {
    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, SampleFault> {
        // What lies there belongs to no request; on a serial line the silence also separates frames.
        let silence_ms = if self.tcp { 0 } else { SILENCE_MS };
        let mut wire = self.wire.take();
        // A device may end a connection that was idle: nothing was asked yet, so nothing is lost by a new one.
        if wire
            .as_mut()
            .is_some_and(|wire| drain(wire.as_mut(), silence_ms).is_err())
        {
            wire = None;
        }
        let wire = match wire {
            Some(wire) => wire,
            None => {
                let mut wire = (self.open)()?;
                drain(wire.as_mut(), silence_ms)?;
                wire
            }
        };
        let wire = self.wire.insert(wire);
        let framing = if self.tcp {
            self.transaction = self.transaction.wrapping_add(1);
            Framing::Tcp(self.transaction)
        } else {
            Framing::Rtu
        };
        let mut bytes = [0; FRAME_BYTES_MAX];
        let began_ms = (self.now_ms)();
        let timeout_ms = self.timeout_ms;
        let left_ms = |now_ms: u64| timeout_ms.saturating_sub(now_ms.saturating_sub(began_ms));
        let sent = request.encode(framing);
        // Eight or twelve bytes always fit into a line that works.
        if wire.write(&sent)? != sent.len() {
            return Err(SampleFault::BusError { errno: None });
        }
        let mut length = 0;
        loop {
            let left_ms = left_ms((self.now_ms)());
            if left_ms == 0 {
                return Err(SampleFault::Timeout);
            }
            if !wire.wait(left_ms)? {
                continue;
            }
            length += wire.read(&mut bytes[length..])?;
            if let Some(data) = request.decode(framing, &bytes[..length])? {
                return Ok(data);
            }
            if length == bytes.len() {
                return Err(SampleFault::Malformed);
            }
        }
    }
}

/// Throws away what lies on a line, until it is silent for so long.
fn drain(wire: &mut dyn Wire, silence_ms: u64) -> Result<(), SampleFault> {
    let mut bytes = [0; FRAME_BYTES_MAX];
    for _ in 0..DRAINS_MAX {
        if !wire.wait(silence_ms)? || wire.read(&mut bytes)? == 0 {
            break;
        }
    }
    Ok(())
}

/// A group of values as a chip with channels.
#[derive(Debug)]
pub struct GroupChip {
    line: ModbusLine,
    group: Group,
}

impl GroupChip {
    /// A group on a line.
    #[must_use]
    pub const fn new(line: ModbusLine, group: Group) -> Self {
        Self { line, group }
    }
}

impl Chip for GroupChip {
    fn set_up(&mut self) -> Result<(), SampleFault> {
        Ok(())
    }

    fn measure(&mut self, _channel: usize, values: &mut Values) -> Result<(), SampleFault> {
        let data = self.line.exchange(&self.group.request)?;
        for (channel, item) in self.group.items.iter().enumerate() {
            values.set(channel, item.value(self.group.request.address, &data));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
