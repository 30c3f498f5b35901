//! The TLS options of a caller.

use serde::Deserialize;

/// TLS material. Texts are PEM.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate authority to trust, in place of the system's.
    pub ca: Option<String>,
    /// Client certificate and its key, for servers that ask for one.
    pub cert: Option<String>,
    pub key: Option<String>,
    /// The name that the certificate must have, where that is not the host.
    pub servername: Option<String>,
    /// `false` accepts any certificate. Default `true`.
    pub reject_unauthorized: Option<bool>,
}
