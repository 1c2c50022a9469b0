//! TLS: whom a connection trusts, who it says it is, and until when both certificates are good.
//!
//! Owns: the configuration of rustls. Must not: weaken a check; the verifier here asks rustls' own and looks on.
//!
//! Invariants: TLS 1.2 or 1.3; the server's name is checked; the files are read anew for every connection.

use std::sync::Arc;

use crossbeam_channel::Sender;
use quorate_core::{
    certificate::Role,
    event::{Event, LinkFault},
};
use rumqttc::{
    TlsConfiguration,
    tokio_rustls::rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
        SignatureScheme,
        client::{
            ResolvesClientCert, WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        sign::{CertifiedKey, SingleCertAndKey},
    },
};

use super::{Options, certificate, fault::fault, setup::read};

/// TLS with the given or the platform's roots, and with a client certificate where there is one.
pub(super) fn tls(options: &Options) -> Result<TlsConfiguration, LinkFault> {
    let of_tls = |error: &dyn std::fmt::Display| fault("tls", &error.to_string());
    let provider = Arc::new(crypto::ring::default_provider());
    let identity = identity(options)?;
    let roots = Arc::new(roots(options)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(|error| of_tls(&error))?;
    let witness = Witness {
        verifier,
        events: options.certificates.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| of_tls(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(witness));
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConfiguration::Rustls(Arc::new(config)))
}

/// The certificates that are trusted.
fn roots(options: &Options) -> Result<RootCertStore, LinkFault> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &options.ca_file else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return if roots.is_empty() {
            Err(fault(
                "tls",
                "the platform has no trusted certificates; set ca_file",
            ))
        } else {
            Ok(roots)
        };
    };
    let text = read(options, "ca_file", "tls", path)?;
    let certificates = chain("ca_file", &text)?;
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(fault("tls", "ca_file: expected a certificate authority"));
    }
    Ok(roots)
}

/// The certificates of a file.
fn chain(key: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, LinkFault> {
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fault("tls", &format!("{key}: {error}")))?;
    if chain.is_empty() {
        return Err(fault(
            "tls",
            &format!("{key}: expected a certificate in PEM"),
        ));
    }
    Ok(chain)
}

/// The client's own certificate and key.
fn identity(options: &Options) -> Result<Option<Arc<dyn ResolvesClientCert>>, LinkFault> {
    let (certificate, key) = match (&options.client_cert_file, &options.client_key_file) {
        (Some(certificate), Some(key)) => (
            read(options, "client_cert_file", "tls", certificate)?,
            read(options, "client_key_file", "tls", key)?,
        ),
        (None, None) => return Ok(None),
        _ => {
            let detail = "client_cert_file and client_key_file go together";
            return Err(fault("tls", detail));
        }
    };
    let chain = chain("client_cert_file", &certificate)?;
    if let Some(own) = chain.first() {
        report(options.certificates.as_ref(), Role::Client, own);
    }
    // The error of the parser could quote the key.
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| fault("tls", "client_key_file: expected a private key in PEM"))?;
    let certified = CertifiedKey::from_der(chain, key, &crypto::ring::default_provider())
        .map_err(|error| fault("tls", &format!("client_key_file: {error}")))?;
    Ok(Some(Arc::new(SingleCertAndKey::from(certified))))
}

/// Tells until when a certificate is good. A queue that is full hears it with the next connection.
fn report(events: Option<&Sender<Event>>, role: Role, der: &[u8]) {
    if let (Some(events), Some(not_after_unix_ms)) = (events, certificate::not_after_unix_ms(der)) {
        let _ = events.try_send(Event::Certificate {
            role,
            not_after_unix_ms,
        });
    }
}

/// Sorts an error of TLS: what an operator has to mend.
pub(super) fn of_rustls(error: &Error) -> &'static str {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate-expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "certificate-not-yet-valid"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "certificate-of-another-host"
            }
            // One that only bears the name of an authority has another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "certificate-of-unknown-authority"
            }
            CertificateError::Revoked => "certificate-revoked",
            _ => "certificate-invalid",
        },
        // The alerts 40 to 51 and 116 of RFC 8446, section 6: in these the server speaks of our certificate.
        Error::AlertReceived(alert) if matches!(u8::from(*alert), 41..=46 | 48 | 49 | 116) => {
            "client-certificate-refused"
        }
        _ => "tls",
    }
}

/// Asks rustls whether the server is whom it says, and tells until when it will be.
#[derive(Debug)]
struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    events: Option<Sender<Event>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        // Of a stranger's certificate nothing is said.
        let known = verified.as_ref().err().map(of_rustls);
        if matches!(known, None | Some("certificate-expired")) {
            report(self.events.as_ref(), Role::Server, end_entity);
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
