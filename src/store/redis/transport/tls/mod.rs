//! TLS: protocol settings and trust. Follows Node.js where the caller is explicit: a certificate in
//! `ca` is trusted itself, a name may be in the subject's CN only, and X.509 version 1 is accepted.
//! Certificates that are not accepted fail with the reason.

mod algorithms;
mod certificate;
mod options;
mod verifier;

use crate::{
    failpoints::failpoint,
    model::error::{Code, Error, Result},
    store::redis::transport::address::Address,
};
pub use options::Tls;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use verifier::{Trusted, Verifier};

/// The TLS settings for connections to one server or to several servers.
pub struct TlsContext {
    config: ClientConfig,
    /// The name that certificates must have; `None` for the host.
    servername: Option<ServerName<'static>>,
    verifier: Arc<Verifier>,
}

/// A connection, and whether the server has requested a client certificate.
pub struct Secured {
    pub stream: TlsStream<TcpStream>,
    pub certificate: Arc<AskedCertificate>,
}

impl TlsContext {
    /// `insecure`: the URL accepts any certificate.
    pub fn new(options: &Tls, insecure: bool) -> Result<Arc<TlsContext>> {
        if insecure && options.reject_unauthorized == Some(true) {
            return Err(Error::invalid(
                "url: #insecure contradicts tls.rejectUnauthorized: true",
            ));
        }
        let any = insecure || options.reject_unauthorized == Some(false);
        let verifier = if any || failpoint!(Certificates) {
            Verifier::Any
        } else {
            match &options.ca {
                Some(pem) => Verifier::Named(Trusted::named(pem)?),
                None => Verifier::System,
            }
        };
        let verifier = Arc::new(verifier);
        let config = ClientConfig::builder_with_provider(algorithms::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS cannot be set up").with_cause(error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone());
        let config = match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => config
                .with_client_auth_cert(chain(cert)?, private_key(key)?)
                .map_err(|error| {
                    Error::invalid("tls.cert and tls.key cannot be used").with_cause(error)
                })?,
            (None, None) => config.with_no_client_auth(),
            _ => {
                return Err(Error::invalid(
                    "tls.cert and tls.key must be given together",
                ));
            }
        };
        let servername = options
            .servername
            .clone()
            .filter(|name| !name.is_empty())
            .map(|name| server_name("tls.servername", name))
            .transpose()?;
        Ok(Arc::new(TlsContext {
            config,
            servername,
            verifier,
        }))
    }

    /// Fails if the host of an address cannot be used for a TLS connection.
    pub fn check_host(&self, host: &str) -> Result<()> {
        match self.servername {
            Some(_) => Ok(()),
            None => server_name("url: the host", host.to_owned()).map(|_| ()),
        }
    }

    /// `display`: the name of the server for messages.
    pub async fn handshake(
        &self,
        address: &Address,
        stream: TcpStream,
        display: &str,
    ) -> Result<Secured> {
        let name = match &self.servername {
            Some(name) => name.clone(),
            None => server_name("url: the host", address.host.clone())?,
        };
        let mut config = self.config.clone();
        let certificate = Arc::new(AskedCertificate {
            inner: config.client_auth_cert_resolver.clone(),
            asked: AtomicBool::new(false),
        });
        config.client_auth_cert_resolver = certificate.clone();
        match TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
        {
            Ok(stream) => Ok(Secured {
                stream,
                certificate,
            }),
            Err(error) => Err(self.failure(&error, &certificate, display)),
        }
    }

    fn failure(&self, error: &io::Error, certificate: &AskedCertificate, display: &str) -> Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let failed = match inner {
            Some(rustls::Error::InvalidCertificate(reason)) => self.untrusted(reason, display),
            Some(rustls::Error::AlertReceived(_)) if certificate.was_asked() => {
                certificate.refused(display)
            }
            Some(rustls::Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity,
            )) => Error::new(
                Code::Unsupported,
                format!(
                    "Redis at {display} and Rollcall have no TLS in common: Rollcall has TLS 1.2 and 1.3 \
                     with authenticated encryption"
                ),
            ),
            Some(rustls::Error::AlertReceived(_)) => Error::new(
                Code::Permission,
                format!("Redis at {display} refused the TLS connection"),
            ),
            Some(rustls::Error::InvalidMessage(_)) => Error::new(
                Code::Unsupported,
                format!("what answers at {display} does not speak TLS; use redis:// and no tls"),
            ),
            Some(_) => Error::new(
                Code::Unsupported,
                format!("the TLS of Redis at {display} is not supported"),
            ),
            None => Error::new(
                Code::Unavailable,
                format!("Redis at {display} cannot be reached"),
            ),
        };
        failed.with_cause(error)
    }

    fn untrusted(&self, reason: &CertificateError, display: &str) -> Error {
        let (code, advice) = match reason {
            CertificateError::UnknownIssuer => (
                Code::Permission,
                "no trusted certificate has issued it; give its issuer as tls.ca",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (
                    Code::Permission,
                    "it is for another name; connect by that name, or give it as tls.servername",
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                (Code::Permission, "it has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                (Code::Permission, "it is not valid yet")
            }
            CertificateError::BadSignature => (
                Code::Unsupported,
                "a signature is wrong, or by an RSA key that is shorter than 2048 bits",
            ),
            _ => (Code::Unsupported, "Rollcall cannot check it"),
        };
        let note = match (self.verifier.note(), reason) {
            (Some(note), CertificateError::UnknownIssuer) => format!(" ({note})"),
            _ => String::new(),
        };
        Error::new(
            code,
            format!("the certificate of Redis at {display} is refused: {advice}{note}"),
        )
    }
}

fn server_name(field: &str, name: String) -> Result<ServerName<'static>> {
    ServerName::try_from(name)
        .map_err(|_| Error::invalid(format!("{field} is not a name that a certificate can have")))
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = || Error::invalid("tls.cert holds no certificate in PEM form");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| unreadable())?;
    if chain.is_empty() {
        return Err(unreadable());
    }
    Ok(chain)
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        Error::invalid("tls.key holds no private key in PEM form, or one that is encrypted")
    })
}

/// The client certificate, if there is one, and whether the server has requested it. In TLS 1.3, a
/// refusal arrives after the handshake, and may be lost when the connection is closed.
#[derive(Debug)]
pub struct AskedCertificate {
    inner: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl AskedCertificate {
    pub fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub fn refused(&self, display: &str) -> Error {
        let why = if self.inner.has_certs() {
            "refused the client certificate (tls.cert)"
        } else {
            "asks for a client certificate; give tls.cert and tls.key"
        };
        Error::new(Code::Permission, format!("Redis at {display} {why}"))
    }
}

impl ResolvesClientCert for AskedCertificate {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}
