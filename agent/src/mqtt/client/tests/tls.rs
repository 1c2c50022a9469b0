//! TLS against a server of the test's own, with certificates made by the test.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    sync::Arc,
};

use quorate_core::certificate::Role;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rumqttc::tokio_rustls::rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, crypto,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

use super::*;

/// A certificate authority.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Identity {
    certificate: Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn identity(&self, name: &str, from: i32, until: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { certificate, key }
    }
}

/// A server with this certificate that wants one of `clients`, where there is such an authority.
fn server(own: &Identity, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
    let config = builder.with_single_cert(vec![own.certificate.der().clone()], key);
    Arc::new(config.unwrap())
}

/// Takes one connection as far as CONNACK; the client's certificate, or why the handshake failed.
fn take(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
) -> JoinHandle<Result<Option<CertificateDer<'static>>, String>> {
    let (listener, config) = (listener.try_clone().unwrap(), Arc::clone(config));
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let connection = ServerConnection::new(config).unwrap();
        let mut tls = StreamOwned::new(connection, stream);
        let mut connect = [0; 1024];
        let read = tls.read(&mut connect).map_err(|error| error.to_string())?;
        assert_eq!(connect[..1], [0x10], "{read} bytes");
        // CONNACK of MQTT 5: accepted, without properties.
        tls.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        tls.flush().unwrap();
        let certificates = tls.conn.peer_certificates();
        let own = certificates.and_then(|chain| chain.first().cloned());
        // Until the client has seen it and goes.
        let _ = tls.read_to_end(&mut Vec::new());
        Ok(own.map(CertificateDer::into_owned))
    })
}

fn write(directory: &Path, name: &str, text: String) -> std::path::PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn trusting(authority: &Authority, directory: &Path, address: SocketAddr) -> Options {
    let mut options = options(address);
    options.url.tls = true;
    options.ca_file = Some(write(directory, "ca.pem", authority.certificate.pem()));
    options
}

/// How a connection to a server with this certificate ends, where it begins at all.
fn refused(trusted: &Authority, own: &Identity) -> Option<&'static str> {
    let directory = tempfile::tempdir().unwrap();
    let (listener, address) = listener();
    let taken = take(&listener, &server(own, None));
    let agent = start(trusting(trusted, directory.path(), address));
    agent.order(Command::Connect { broker: 0 });
    let cause = loop {
        match agent.event() {
            Event::LinkUp { .. } => break None,
            Event::LinkDown { fault } => break Some(fault.cause),
            Event::Certificate { role, .. } => assert_eq!(role, Role::Server),
            other => unreachable!("{other:?}"),
        }
    };
    agent.stop();
    assert_eq!(taken.join().unwrap().is_err(), cause.is_some());
    cause
}

#[test]
fn each_wrong_certificate_of_the_broker_is_refused_for_its_reason() {
    let authority = Authority::new("A");
    let check = |trusted: &Authority, own: &Identity, expected| {
        assert_eq!(refused(trusted, own), expected);
    };
    let address = "127.0.0.1";
    check(&authority, &authority.identity(address, 2020, 2090), None);
    let expired = authority.identity(address, 2000, 2020);
    check(&authority, &expired, Some("certificate-expired"));
    let early = authority.identity(address, 2080, 2090);
    check(&authority, &early, Some("certificate-not-yet-valid"));
    let other = authority.identity("broker.example", 2020, 2090);
    check(&authority, &other, Some("certificate-of-another-host"));
    // An authority of another name, and one that only bears the name.
    for name in ["B", "A"] {
        let unknown = Authority::new(name).identity(address, 2020, 2090);
        let expected = Some("certificate-of-unknown-authority");
        check(&authority, &unknown, expected);
    }
}

#[test]
fn the_clients_certificate_is_shown_renewed_without_a_restart_and_its_end_is_told() {
    let (authority, clients) = (Authority::new("A"), Authority::new("B"));
    let directory = tempfile::tempdir().unwrap();
    let (listener, address) = listener();
    let config = server(&authority.identity("127.0.0.1", 2020, 2090), Some(&clients));
    let mut options = trusting(&authority, directory.path(), address);
    // Found among the credentials.
    options.credentials = Some(directory.path().to_owned());
    options.client_cert_file = Some("client.pem".into());
    options.client_key_file = Some("client.key".into());
    let agent = start(options);
    for until in [2060, 2070] {
        let own = clients.identity("press-07", 2020, until);
        write(directory.path(), "client.pem", own.certificate.pem());
        write(directory.path(), "client.key", own.key.serialize_pem());
        let taken = take(&listener, &config);
        agent.order(Command::Connect { broker: 0 });
        let mut told = Vec::new();
        loop {
            match agent.event() {
                Event::LinkUp { .. } => break,
                Event::Certificate {
                    role,
                    not_after_unix_ms,
                } => {
                    let time = jiff::Timestamp::from_millisecond(not_after_unix_ms).unwrap();
                    told.push((role.as_str(), time.to_string()));
                }
                other => unreachable!("{other:?}"),
            }
        }
        let expected = [
            ("client", format!("{until}-01-01T00:00:00Z")),
            ("server", "2090-01-01T00:00:00Z".to_owned()),
        ];
        assert_eq!(told, expected);
        agent.order(Command::Disconnect { cause: "test" });
        agent.down("requested");
        let shown = taken.join().unwrap().unwrap();
        assert_eq!(shown.as_ref(), Some(own.certificate.der()));
    }
    agent.stop();
}

#[test]
fn a_broker_that_refuses_the_clients_certificate_is_told_as_that() {
    let (authority, clients, others) = (
        Authority::new("A"),
        Authority::new("B"),
        Authority::new("C"),
    );
    let config = server(&authority.identity("127.0.0.1", 2020, 2090), Some(&clients));
    let expired = clients.identity("press-07", 2000, 2020);
    let foreign = others.identity("press-07", 2020, 2090);
    for own in [None, Some(expired), Some(foreign)] {
        let directory = tempfile::tempdir().unwrap();
        let (listener, address) = listener();
        let mut options = trusting(&authority, directory.path(), address);
        if let Some(own) = &own {
            let path = write(directory.path(), "client.pem", own.certificate.pem());
            options.client_cert_file = Some(path);
            let path = write(directory.path(), "client.key", own.key.serialize_pem());
            options.client_key_file = Some(path);
        }
        let taken = take(&listener, &config);
        let agent = start(options);
        agent.order(Command::Connect { broker: 0 });
        let fault = loop {
            match agent.event() {
                Event::Certificate { .. } => {}
                Event::LinkDown { fault } => break fault,
                other => unreachable!("{other:?}"),
            }
        };
        assert_eq!(
            fault.cause, "client-certificate-refused",
            "{}",
            fault.detail
        );
        assert!(taken.join().unwrap().is_err());
        agent.stop();
    }
}

#[test]
fn a_password_is_read_anew_and_may_be_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, address) = listener();
    let agent = start(Options {
        username: Some("press".to_owned()),
        password_file: Some("mqtt-password".into()),
        credentials: Some(directory.path().to_owned()),
        ..options(address)
    });
    for password in ["first", "second"] {
        write(directory.path(), "mqtt-password", format!("{password}\n"));
        agent.order(Command::Connect { broker: 0 });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connect = [0; 1024];
        let read = stream.read(&mut connect).unwrap();
        let connect = String::from_utf8_lossy(&connect[..read]).into_owned();
        assert!(connect.ends_with(password), "{connect}");
        drop(stream);
        agent.down("closed");
    }
    agent.stop();
}
