//! Values, groups, and a line against the server of the crate rmodbus.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rmodbus::server::ModbusFrame;
use rmodbus::server::context::ModbusContext;
use rmodbus::server::storage::ModbusStorageSmall;
use rmodbus::{ModbusFrameBuf, ModbusProto};

use super::frame::Table;
use super::{GroupChip, ModbusConfig, ModbusLine, ValueKind, Wire, groups};
use crate::SampleFault;
use crate::chips::{Chip, Values};

fn item(address: u16, kind: ValueKind) -> ModbusConfig {
    ModbusConfig {
        unit: 1,
        table: Table::HoldingRegisters,
        address,
        kind,
        words_swapped: false,
        bytes_swapped: false,
        scale: 1.0,
        offset: 0.0,
    }
}

#[test]
fn values_in_every_type_and_order() {
    let check = |kind, swapped: (bool, bool), bytes: &[u8], expected: f64| {
        let config = ModbusConfig {
            words_swapped: swapped.0,
            bytes_swapped: swapped.1,
            ..item(7, kind)
        };
        assert_eq!(config.value(7, bytes), Ok(expected), "{kind:?} {swapped:?}");
    };
    check(ValueKind::U16, (false, false), &[0xff, 0xfe], 65_534.0);
    check(ValueKind::U16, (false, true), &[0xfe, 0xff], 65_534.0);
    check(ValueKind::I16, (false, false), &[0xff, 0xfe], -2.0);
    let pi = 3.5_f32.to_be_bytes();
    check(ValueKind::F32, (false, false), &pi, 3.5);
    check(
        ValueKind::F32,
        (true, false),
        &[pi[2], pi[3], pi[0], pi[1]],
        3.5,
    );
    check(
        ValueKind::F32,
        (false, true),
        &[pi[1], pi[0], pi[3], pi[2]],
        3.5,
    );
    check(
        ValueKind::F32,
        (true, true),
        &[pi[3], pi[2], pi[1], pi[0]],
        3.5,
    );
    check(
        ValueKind::U32,
        (false, false),
        &[0x80, 0, 0, 1],
        2_147_483_649.0,
    );
    check(ValueKind::I32, (false, false), &[0xff; 4], -1.0);
    check(
        ValueKind::F64,
        (false, false),
        &(-2.25_f64).to_be_bytes(),
        -2.25,
    );
    let scaled = ModbusConfig {
        scale: 0.1,
        offset: -40.0,
        ..item(7, ValueKind::U16)
    };
    assert_eq!(scaled.value(7, &[0x01, 0xf4]), Ok(10.0));
    let short = item(8, ValueKind::U32).value(7, &[0; 4]);
    assert_eq!(short, Err(SampleFault::Malformed));
    let bit = ModbusConfig {
        table: Table::Coils,
        ..item(17, ValueKind::Bit)
    };
    assert_eq!(bit.value(8, &[0, 0b10]), Ok(1.0));
}

#[test]
fn adjacent_values_share_a_request_and_no_request_is_too_long() {
    let requests = |items: &[ModbusConfig]| -> Vec<(u16, u16)> {
        groups(items)
            .iter()
            .map(|group| (group.request.address, group.request.count))
            .collect()
    };
    let near = [
        item(2, ValueKind::F32),
        item(0, ValueKind::U32),
        item(4, ValueKind::U16),
    ];
    assert_eq!(requests(&near), [(0, 5)]);
    assert_eq!(
        requests(&[item(0, ValueKind::U16), item(2, ValueKind::U16)]),
        [(0, 1), (2, 1)]
    );
    let other = ModbusConfig {
        unit: 2,
        ..item(1, ValueKind::U16)
    };
    assert_eq!(requests(&[item(0, ValueKind::U16), other]).len(), 2);
    let many: Vec<_> = (0..64)
        .map(|index| item(index * 4, ValueKind::F64))
        .collect();
    assert!(groups(&many).iter().all(|group| group.request.count <= 125));
    for group in groups(&many) {
        assert!(group.items.len() <= 32);
    }
    assert_eq!(requests(&[item(65_535, ValueKind::U16)]), [(65_535, 1)]);
    assert!(item(65_535, ValueKind::U32).validate().is_err());
    assert!(item(0, ValueKind::Bit).validate().is_err());
}

/// A device behind a line; what it does to each answer is scripted.
struct Device {
    registers: ModbusStorageSmall,
    tcp: bool,
    out: VecDeque<u8>,
    clock: Arc<AtomicU64>,
    spoil: fn(&mut Vec<u8>),
    /// It ends a connection that has answered once.
    ends: bool,
    ended: bool,
}

impl Wire for Device {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, SampleFault> {
        if self.ended && self.out.is_empty() {
            return Err(SampleFault::Missing);
        }
        // In small pieces, as a line delivers them.
        let count = bytes.len().min(self.out.len()).min(3);
        for byte in &mut bytes[..count] {
            *byte = self.out.pop_front().unwrap();
        }
        Ok(count)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, SampleFault> {
        let mut frame: ModbusFrameBuf = [0; 256];
        frame[..bytes.len()].copy_from_slice(bytes);
        let protocol = if self.tcp {
            ModbusProto::TcpUdp
        } else {
            ModbusProto::Rtu
        };
        let mut answer = Vec::new();
        let mut request = ModbusFrame::new(1, &frame, protocol, &mut answer);
        request.parse().unwrap();
        if request.processing_required {
            request.process_read(&self.registers).unwrap();
        }
        if request.response_required {
            request.finalize_response().unwrap();
        }
        (self.spoil)(&mut answer);
        self.out.extend(answer);
        self.ended = self.ends;
        Ok(bytes.len())
    }

    fn wait(&mut self, timeout_ms: u64) -> Result<bool, SampleFault> {
        if self.ended && self.out.is_empty() {
            return Ok(true);
        }
        if self.out.is_empty() {
            self.clock.fetch_add(timeout_ms, Ordering::Relaxed);
        }
        Ok(!self.out.is_empty())
    }
}

/// Reads once from a device that spoils its answers so.
fn read(tcp: bool, config: &ModbusConfig, spoil: fn(&mut Vec<u8>)) -> Result<f64, SampleFault> {
    sample(&mut chip(tcp, config, spoil, false))
}

fn sample(chip: &mut GroupChip) -> Result<f64, SampleFault> {
    let mut values = Values::default();
    chip.measure(0, &mut values)?;
    values.take(0).unwrap()
}

fn chip(tcp: bool, config: &ModbusConfig, spoil: fn(&mut Vec<u8>), ends: bool) -> GroupChip {
    let clock = Arc::new(AtomicU64::new(0));
    let now = Arc::clone(&clock);
    let open = move || {
        let mut registers = ModbusStorageSmall::new();
        registers.set_holding(0, 0x4248).unwrap();
        registers.set_holding(1, 0x0000).unwrap();
        registers.set_coil(3, true).unwrap();
        Ok(Box::new(Device {
            registers,
            tcp,
            out: VecDeque::new(),
            clock: Arc::clone(&clock),
            spoil,
            ends,
            ended: false,
        }) as Box<dyn Wire>)
    };
    let now = Box::new(move || now.load(Ordering::Relaxed));
    let line = ModbusLine::new(Box::new(open), now, tcp, 500);
    let group = groups(std::slice::from_ref(config)).remove(0);
    GroupChip::new(line, group)
}

/// Many devices do so after some seconds; every second sample was lost.
#[test]
fn a_connection_that_the_device_has_ended_costs_no_sample() {
    for tcp in [true, false] {
        let mut chip = chip(tcp, &item(0, ValueKind::F32), |_| {}, true);
        for _ in 0..4 {
            assert_eq!(sample(&mut chip), Ok(50.0));
        }
    }
}

#[test]
fn a_device_is_read_over_both_framings() {
    let float = item(0, ValueKind::F32);
    let coil = ModbusConfig {
        table: Table::Coils,
        ..item(3, ValueKind::Bit)
    };
    for tcp in [false, true] {
        assert_eq!(read(tcp, &float, |_| {}), Ok(50.0));
        assert_eq!(read(tcp, &coil, |_| {}), Ok(1.0));
        let beyond = read(tcp, &item(60_000, ValueKind::U16), |_| {});
        assert_eq!(beyond.unwrap_err().as_str(), "illegal-address");
        assert_eq!(read(tcp, &float, Vec::clear), Err(SampleFault::Timeout));
        let cut = read(tcp, &float, |answer| answer.truncate(6));
        assert_eq!(cut, Err(SampleFault::Timeout));
        let other = ModbusConfig {
            unit: 2,
            ..float.clone()
        };
        assert_eq!(read(tcp, &other, |_| {}), Err(SampleFault::Timeout));
    }
    let noisy = read(false, &float, |answer| answer[4] ^= 1);
    assert_eq!(noisy, Err(SampleFault::Checksum));
}
