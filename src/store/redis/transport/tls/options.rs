//! The TLS options of a caller.

use serde::Deserialize;

/// TLS options. Texts are PEM.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate authorities to trust. Default: those of the system.
    pub ca: Option<String>,
    /// Client certificate and its key, for servers that request one.
    pub cert: Option<String>,
    pub key: Option<String>,
    /// The name that the certificate must have. Default: the host.
    pub servername: Option<String>,
    /// `false` accepts any certificate. Default `true`.
    pub reject_unauthorized: Option<bool>,
}
