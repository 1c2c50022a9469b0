//! Resetting a bus by binding the driver of its controller anew.
//!
//! Owns: the way from a device file to its controller in sysfs, and the two writes there. Must not: be done unless the
//! bus was configured with `rebind = true`. Every file of the bus must be closed before: the kernel waits for that.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Classes of device files, in sysfs.
const CLASSES: [&str; 3] = ["i2c-dev", "spidev", "tty"];
/// Folders that are gone up at most.
const ANCESTORS_MAX: usize = 8;

/// Unbinds and binds the driver of the controller behind a device file. `system` is usually `/sys`.
///
/// # Errors
/// In one kebab-case word why that could not be done.
pub fn rebind(file: &Path, system: &Path) -> Result<(), &'static str> {
    let (controller, driver) = controller(file, system).ok_or("no-driver")?;
    write(&driver.join("unbind"), &controller, "unbind-failed")?;
    write(&driver.join("bind"), &controller, "bind-failed")
}

/// The name of the controller and the folder of its driver.
fn controller(file: &Path, system: &Path) -> Option<(String, PathBuf)> {
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let name = file.file_name()?;
    let device = CLASSES.iter().find_map(|class| {
        let link = system.join("class").join(class).join(name).join("device");
        fs::canonicalize(link).ok()
    })?;
    // The device itself is the adapter, or what hangs on the controller: the controller lies above.
    let above = device.ancestors().skip(1).take(ANCESTORS_MAX);
    let mut drivers = above.filter_map(|folder| {
        let driver = fs::canonicalize(folder.join("driver")).ok()?;
        Some((folder.file_name()?.to_str()?.to_owned(), driver))
    });
    drivers.next()
}

fn write(file: &Path, name: &str, failed: &'static str) -> Result<(), &'static str> {
    fs::write(file, name).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => "not-permitted",
        _ => failed,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::rebind;
    use std::{fs, os::unix::fs::symlink, path::Path};

    #[test]
    fn the_controller_above_the_adapter_is_bound_anew() {
        let root = tempfile::tempdir().unwrap();
        let system = root.path();
        let adapter = system.join("devices/platform/soc/3f804000.i2c/i2c-1");
        fs::create_dir_all(adapter.join("i2c-dev/i2c-1")).unwrap();
        let driver = system.join("bus/platform/drivers/i2c-bcm2835");
        fs::create_dir_all(&driver).unwrap();
        symlink(&driver, adapter.parent().unwrap().join("driver")).unwrap();
        fs::create_dir_all(system.join("class/i2c-dev/i2c-1")).unwrap();
        symlink(&adapter, system.join("class/i2c-dev/i2c-1/device")).unwrap();
        assert_eq!(rebind(Path::new("/dev/i2c-1"), system), Ok(()));
        for file in ["unbind", "bind"] {
            let written = fs::read_to_string(driver.join(file)).unwrap();
            assert_eq!(written, "3f804000.i2c");
        }
        assert_eq!(rebind(Path::new("/dev/i2c-2"), system), Err("no-driver"));
        fs::remove_dir_all(&driver).unwrap();
        assert_eq!(rebind(Path::new("/dev/i2c-1"), system), Err("no-driver"));
    }
}
