//! The password of the broker stands nowhere but in the packet that it is for.

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{
        io::{Read as _, Write as _},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
        process::{Child, Command, Stdio},
        time::Duration,
    };

    const PASSWORD: &str = "correct-horse-battery-staple";
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Agent(Child);

    impl Drop for Agent {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port()
    }

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn the_password_is_not_in_the_log_the_status_or_the_metrics() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        std::fs::write(file("password"), PASSWORD).unwrap();
        let configuration = format!(
            "[device]\nid = \"press\"\n[outbox]\npath = {:?}\n[mqtt]\nurl = \"mqtt://{}\"\nusername = \"user\"\n\
             password_file = \"password\"\nfirst_retry_ms_max = 1\n[http]\nlisten = \"{endpoint}\"\n[log]\nlevel = \"trace\"\n",
            file("outbox"),
            broker.local_addr().unwrap(),
        );
        std::fs::write(file("quorate.toml"), configuration).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["run", "--config"])
            .arg(file("quorate.toml"))
            .env("CREDENTIALS_DIRECTORY", directory.path())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn();
        let agent = Agent(process.unwrap());
        // Once refused, once accepted: both are logged.
        for answer in [&[0x20, 3, 0, 0x86, 0], &[0x20, 3, 0, 0, 0]] {
            let (mut stream, _) = broker.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut connect = [0; 1024];
            let read = stream.read(&mut connect).unwrap();
            let connect = String::from_utf8_lossy(&connect[..read]);
            assert!(connect.contains(PASSWORD), "the packet has it: {connect}");
            stream.write_all(answer).unwrap();
            // The next packet, or the end.
            let _ = stream.read(&mut [0; 1024]).unwrap();
        }
        let status = get(endpoint, "/api/v1/status");
        assert!(status.contains("\"link\""), "{status}");
        for path in ["/api/v1/status", "/metrics", "/healthz", "/readyz", "/"] {
            assert!(!get(endpoint, path).contains(PASSWORD), "{path}");
        }
        drop(agent);
        let log = std::fs::read_to_string(file("log")).unwrap();
        assert!(log.contains("running"), "{log}");
        assert!(!log.contains(PASSWORD), "{log}");
    }
}
