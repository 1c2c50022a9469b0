//! TLS to a web server, with rustls as the broker's connection has it.
//!
//! Owns: whom such a connection trusts: the platform's certificate authorities and those of a file. Must not: speak HTTP.
//!
//! Invariant: the server's name is checked, and nothing weakens that.

use std::{io, path::Path, sync::Arc, time::Duration};

use rumqttc::tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio::net::TcpStream;

use super::setup;

/// Connects to a server as to a broker: each address of the name has a share of the time.
///
/// # Errors
/// The name has no address, or none of them answers in time.
pub(crate) async fn dial(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    setup::dial(host, port, timeout).await
}

/// Whom to trust beside the platform's certificate authorities.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorities<'a> {
    /// Further authorities, PEM.
    pub ca_file: Option<&'a Path>,
    /// The service manager's credentials, where a file with a relative name is looked for first.
    pub credentials: Option<&'a Path>,
}

/// Makes a connection secure.
///
/// # Errors
/// There is nobody to trust, or the server is not who it should be.
pub(crate) async fn secure(
    host: &str,
    stream: TcpStream,
    authorities: Authorities<'_>,
) -> io::Result<TlsStream<TcpStream>> {
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = authorities.ca_file {
        let text = setup::read_bounded(authorities.credentials, path)?;
        let certificates = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| other(&error))?;
        roots.add_parsable_certificates(certificates);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| other(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|error| other(&error))?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}
