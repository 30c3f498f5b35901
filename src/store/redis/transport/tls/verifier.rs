//! Verifies the certificates of servers.

use crate::{
    model::error::{Error as CoreError, Result as CoreResult},
    store::redis::transport::tls::{
        algorithms,
        certificate::{Parsed, Validity},
    },
};
use once_cell::sync::Lazy;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use std::env;

/// The certificates to trust.
#[derive(Debug)]
pub enum Verifier {
    /// All certificates.
    Any,
    /// Only the certificates of `tls.ca`.
    Named(Trusted),
    /// Those of the system. They are loaded when the first certificate is verified, once for the
    /// process.
    System,
}

#[derive(Debug)]
pub struct Trusted {
    roots: RootCertStore,
    /// The certificates that the caller gave. They are trusted themselves, even if they are not
    /// authorities.
    named: Vec<CertificateDer<'static>>,
    /// Which of the trusted certificates could not be read.
    note: Option<String>,
}

static SYSTEM: Lazy<Trusted> = Lazy::new(Trusted::system);

impl Verifier {
    fn trusted(&self) -> Option<&Trusted> {
        match self {
            Verifier::Any => None,
            Verifier::Named(trusted) => Some(trusted),
            Verifier::System => Some(&SYSTEM),
        }
    }

    /// Which trusted certificates may be missing.
    pub fn note(&self) -> Option<&str> {
        self.trusted()?.note.as_deref()
    }
}

impl Trusted {
    fn none() -> Trusted {
        Trusted {
            roots: RootCertStore::empty(),
            named: Vec::new(),
            note: None,
        }
    }

    pub fn named(pem: &str) -> CoreResult<Trusted> {
        let mut trusted = Trusted::none();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate
                .map_err(|error| CoreError::invalid("tls.ca cannot be read").with_cause(error))?;
            if !trusted.add(certificate) {
                return Err(CoreError::invalid(
                    "tls.ca holds a certificate that cannot be read",
                ));
            }
        }
        if trusted.named.is_empty() {
            // With an empty list, no certificate would be trusted.
            return Err(CoreError::invalid(
                "tls.ca holds no certificate in PEM form",
            ));
        }
        Ok(trusted)
    }

    /// The certificates of the system, and those of `NODE_EXTRA_CA_CERTS`. Unreadable ones are
    /// ignored, as in Node.js.
    fn system() -> Trusted {
        let mut trusted = Trusted::none();
        let mut unread = Vec::new();
        let system = rustls_native_certs::load_native_certs();
        trusted.roots.add_parsable_certificates(system.certs);
        if trusted.roots.is_empty() {
            let why = system.errors.first().map(ToString::to_string);
            unread.push(format!(
                "the system's certificates could not be read: {}",
                why.unwrap_or_else(|| "there are none".into())
            ));
        }
        if let Some(file) = env::var_os("NODE_EXTRA_CA_CERTS").filter(|file| !file.is_empty()) {
            match CertificateDer::pem_file_iter(&file) {
                Ok(certificates) => {
                    for certificate in certificates.flatten() {
                        trusted.add(certificate);
                    }
                }
                Err(_) => unread.push("the file of NODE_EXTRA_CA_CERTS could not be read".into()),
            }
        }
        trusted.note = (!unread.is_empty()).then(|| unread.join("; "));
        trusted
    }

    /// Adds a certificate. Returns whether it could be read.
    fn add(&mut self, certificate: CertificateDer<'static>) -> bool {
        let is_root = self.roots.add(certificate.clone()).is_ok();
        let readable = is_root || Parsed::new(&certificate).is_some();
        if readable {
            self.named.push(certificate);
        }
        readable
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.named.iter().any(|named| named == certificate) {
            return valid_now(certificate, now);
        }
        let all = algorithms::supported().all;
        let verified = ParsedCertificate::try_from(certificate).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, all)
        });
        match verified {
            // Certificates that webpki does not support: version 1, or an authority that is used as
            // a server.
            Err(Error::InvalidCertificate(
                CertificateError::Other(_) | CertificateError::BadEncoding,
            )) if self.is_issued_by_named(certificate) => valid_now(certificate, now),
            verified => verified,
        }
    }

    fn is_issued_by_named(&self, certificate: &CertificateDer<'_>) -> bool {
        Parsed::new(certificate).is_some_and(|parsed| {
            parsed.fits_server()
                && self
                    .named
                    .iter()
                    .filter_map(Parsed::new)
                    .any(|issuer| parsed.is_issued_by(&issuer))
        })
    }
}

/// Verifies a signature for a certificate that webpki cannot read.
fn verify_with_key(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let parsed = Parsed::new(certificate).ok_or(CertificateError::BadEncoding)?;
    let of_scheme = algorithms::supported()
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == signed.scheme)
        .flat_map(|(_, algorithms)| algorithms.iter());
    for algorithm in of_scheme {
        if parsed.verifies(*algorithm, message, signed.signature()) {
            return Ok(HandshakeSignatureValid::assertion());
        }
    }
    Err(CertificateError::BadSignature.into())
}

fn valid_now(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = Parsed::new(certificate).ok_or(CertificateError::BadEncoding)?;
    match parsed.validity(now) {
        Validity::Valid => Ok(()),
        Validity::NotYet => Err(CertificateError::NotValidYet.into()),
        Validity::Expired => Err(CertificateError::Expired.into()),
    }
}

fn verify_name(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let by_webpki = ParsedCertificate::try_from(certificate)
        .and_then(|parsed| verify_server_name(&parsed, name));
    match by_webpki {
        Err(_) if Parsed::new(certificate).is_some_and(|parsed| parsed.names(name)) => Ok(()),
        Err(Error::InvalidCertificate(
            CertificateError::Other(_) | CertificateError::BadEncoding,
        )) => Err(CertificateError::NotValidForName.into()),
        other => other,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trusted) = self.trusted() {
            trusted.verify(certificate, intermediates, now)?;
            verify_name(certificate, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(self, Verifier::Any) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => verify_tls12_signature(message, certificate, signed, &algorithms::supported()),
            Err(_) => verify_with_key(message, certificate, signed),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if matches!(self, Verifier::Any) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        match ParsedCertificate::try_from(certificate) {
            Ok(_) => verify_tls13_signature(message, certificate, signed, &algorithms::supported()),
            Err(_) => verify_with_key(message, certificate, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms::supported().supported_schemes()
    }
}
