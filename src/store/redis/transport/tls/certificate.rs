//! Reads what webpki does not support: certificates of version 1, the CN of the subject, and keys
//! and signatures of certificates that webpki refuses.

use crate::store::redis::transport::tls::algorithms;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use std::net::IpAddr;
use x509_cert::{
    Certificate,
    der::{Decode, Encode, asn1::ObjectIdentifier},
    ext::pkix::{ExtendedKeyUsage, SubjectAltName, name::GeneralName},
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
/// Extensions that may be critical: they are checked here, or they only concern issuing.
const UNDERSTOOD: [ObjectIdentifier; 4] = [
    SUBJECT_ALT_NAME,
    EXTENDED_KEY_USAGE,
    // Basic constraints and key usage.
    ObjectIdentifier::new_unwrap("2.5.29.19"),
    ObjectIdentifier::new_unwrap("2.5.29.15"),
];

pub struct Parsed(Certificate);

/// The relation of a time to the certificate's validity.
#[derive(Debug, PartialEq)]
pub enum Validity {
    Valid,
    NotYet,
    Expired,
}

impl Parsed {
    pub fn new(der: &CertificateDer<'_>) -> Option<Parsed> {
        Certificate::from_der(der).ok().map(Parsed)
    }

    pub fn validity(&self, now: UnixTime) -> Validity {
        let validity = self.0.tbs_certificate().validity();
        let now = now.as_secs();
        if now < validity.not_before.to_unix_duration().as_secs() {
            Validity::NotYet
        } else if now > validity.not_after.to_unix_duration().as_secs() {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }

    /// Whether all extensions allow the use as a server certificate.
    pub fn fits_server(&self) -> bool {
        let extensions = self.0.tbs_certificate().extensions().into_iter().flatten();
        extensions
            .clone()
            .all(|one| !one.critical || UNDERSTOOD.contains(&one.extn_id))
            && extensions
                .filter(|one| one.extn_id == EXTENDED_KEY_USAGE)
                .all(|one| {
                    ExtendedKeyUsage::from_der(one.extn_value.as_bytes()).is_ok_and(|usage| {
                        usage.0.contains(&SERVER_AUTH) || usage.0.contains(&ANY_USAGE)
                    })
                })
    }

    /// Whether `issuer` has signed the certificate.
    pub fn is_issued_by(&self, issuer: &Parsed) -> bool {
        let (tbs, by) = (self.0.tbs_certificate(), issuer.0.tbs_certificate());
        let constrains = by
            .extensions()
            .into_iter()
            .flatten()
            .any(|one| one.extn_id == NAME_CONSTRAINTS);
        if tbs.issuer() != by.subject() || constrains {
            return false;
        }
        let (Ok(signed), Some(signature), Some(algorithm)) = (
            tbs.to_der(),
            self.0.signature().as_bytes(),
            inner_der(self.0.signature_algorithm()),
        ) else {
            return false;
        };
        let fits = |one: &&&dyn SignatureVerificationAlgorithm| {
            one.signature_alg_id().as_ref() == algorithm.as_slice()
        };
        algorithms::supported()
            .all
            .iter()
            .filter(fits)
            .any(|one| issuer.verifies(*one, &signed, signature))
    }

    /// Whether the certificate's key verifies the signature.
    pub fn verifies(
        &self,
        algorithm: &dyn SignatureVerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let spki: &SubjectPublicKeyInfoOwned = self.0.tbs_certificate().subject_public_key_info();
        inner_der(&spki.algorithm).is_some_and(|id| id == algorithm.public_key_alg_id().as_ref())
            && spki
                .subject_public_key
                .as_bytes()
                .is_some_and(|key| algorithm.verify_signature(key, message, signature).is_ok())
    }

    /// Whether the certificate names the server. The CN of the subject only counts if the
    /// certificate has no other host name, as in `tls.checkServerIdentity` of Node.js. An address
    /// must be among the alternative names.
    pub fn names(&self, server: &ServerName<'_>) -> bool {
        let others = self.alternative_names();
        match server {
            ServerName::DnsName(host) => {
                let mut dns = others.iter().filter_map(|name| match name {
                    GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
                    _ => None,
                });
                let host = host.as_ref();
                match dns.next() {
                    Some(first) => std::iter::once(first)
                        .chain(dns)
                        .any(|name| fits(&name, host)),
                    None => self.common_names().iter().any(|name| fits(name, host)),
                }
            }
            ServerName::IpAddress(address) => {
                let address = match IpAddr::from(*address) {
                    IpAddr::V4(v4) => v4.octets().to_vec(),
                    IpAddr::V6(v6) => v6.octets().to_vec(),
                };
                others.iter().any(
                    |name| matches!(name, GeneralName::IpAddress(ip) if ip.as_bytes() == address),
                )
            }
            _ => false,
        }
    }

    fn alternative_names(&self) -> Vec<GeneralName> {
        let extensions = self.0.tbs_certificate().extensions().into_iter().flatten();
        extensions
            .filter(|one| one.extn_id == SUBJECT_ALT_NAME)
            .filter_map(|one| SubjectAltName::from_der(one.extn_value.as_bytes()).ok())
            .flat_map(|names| names.0)
            .collect()
    }

    fn common_names(&self) -> Vec<String> {
        let subject = self.0.tbs_certificate().subject();
        let attributes = subject.iter_rdn().flat_map(|names| names.iter());
        attributes
            .filter(|one| one.oid == COMMON_NAME)
            .filter_map(|one| std::str::from_utf8(one.value.value()).ok().map(Into::into))
            .collect()
    }
}

/// Compares like Node.js: ignores case, and allows `*` for the first label only.
fn fits(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.trim_end_matches('.'), host.trim_end_matches('.'));
    match pattern.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(label, domain)| {
            !label.is_empty() && rest.contains('.') && rest.eq_ignore_ascii_case(domain)
        }),
        None => !pattern.is_empty() && pattern.eq_ignore_ascii_case(host),
    }
}

/// The identifier of an algorithm in the form of rustls: the content of the SEQUENCE.
fn inner_der(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    // Such identifiers are shorter than 128 bytes, so the tag and the length take one byte each.
    (der.get(1)? & 0x80 == 0).then(|| der[2..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_node_does() {
        for (pattern, host, expected) in [
            ("redis.example.com", "REDIS.example.com", true),
            ("redis.example.com.", "redis.example.com", true),
            ("*.example.com", "redis.example.com", true),
            ("*.example.com", "a.redis.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "localhost", false),
            ("", "localhost", false),
            ("redis", "redis.example.com", false),
        ] {
            assert_eq!(fits(pattern, host), expected, "{pattern} {host}");
        }
    }
}
