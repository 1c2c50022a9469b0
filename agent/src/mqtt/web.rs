//! TLS to a web server, with rustls as the broker's connection has it.
//!
//! Owns: whom such a connection trusts: the platform's certificate authorities and those of a file. Must not: speak HTTP.
//!
//! Invariant: the server's name is checked, and nothing weakens that.

use std::{fs, io, path::Path, sync::Arc};

use rumqttc::tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, crypto,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio::net::TcpStream;

/// Most bytes of the file of certificate authorities.
const CA_BYTES_MAX: u64 = 1 << 20;

/// Makes a connection secure.
///
/// # Errors
/// There is nobody to trust, or the server is not who it should be.
pub(crate) async fn secure(
    host: &str,
    stream: TcpStream,
    ca_file: Option<&Path>,
) -> io::Result<TlsStream<TcpStream>> {
    let other = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        if fs::metadata(path)?.len() > CA_BYTES_MAX {
            return Err(other(&"the file of certificate authorities is too large"));
        }
        let certificates = CertificateDer::pem_slice_iter(&fs::read(path)?)
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
