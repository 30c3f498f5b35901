//! The cryptographic algorithms for TLS: those of *ring*, and ECDSA on P-521, which *ring* lacks.

use once_cell::sync::Lazy;
use p521::{
    PublicKey, SecretKey,
    ecdh::diffie_hellman,
    ecdsa::{
        Signature, SigningKey as Key, VerifyingKey,
        signature::{Signer as _, hazmat::PrehashVerifier},
    },
    elliptic_curve::sec1::ToSec1Point,
    pkcs8::DecodePrivateKey,
};
use rustls::{
    Error, NamedGroup, PeerMisbehaved, SignatureAlgorithm, SignatureScheme,
    crypto::{
        ActiveKeyExchange, CryptoProvider, KeyProvider, SharedSecret, SupportedKxGroup,
        WebPkiSupportedAlgorithms, ring,
    },
    pki_types::{
        AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
        alg_id,
    },
    sign::{Signer, SigningKey},
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::sync::Arc;

pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: Lazy<Arc<CryptoProvider>> = Lazy::new(|| {
        Arc::new(CryptoProvider {
            signature_verification_algorithms: supported(),
            key_provider: &Keys,
            kx_groups: [ring::default_provider().kx_groups, vec![&P521Group]].concat(),
            ..ring::default_provider()
        })
    });
    PROVIDER.clone()
}

pub fn supported() -> WebPkiSupportedAlgorithms {
    static SUPPORTED: Lazy<WebPkiSupportedAlgorithms> = Lazy::new(|| {
        let ring = ring::default_provider().signature_verification_algorithms;
        let all = [ring.all, P521_ALGORITHMS].concat();
        // In TLS 1.2, a signature scheme does not determine the curve.
        let of_p521 = |scheme| match scheme {
            SignatureScheme::ECDSA_NISTP384_SHA384 => &P521_ALGORITHMS[1..2],
            SignatureScheme::ECDSA_NISTP256_SHA256 => &P521_ALGORITHMS[2..],
            _ => &[],
        };
        let mut mapping = Vec::new();
        for (scheme, algorithms) in ring.mapping {
            let both: &'static [_] = [algorithms, of_p521(*scheme)].concat().leak();
            mapping.push((*scheme, both));
        }
        // Must be last: in TLS 1.2, servers with keys on other curves would otherwise select it
        // because of SHA-512.
        mapping.push((
            SignatureScheme::ECDSA_NISTP521_SHA512,
            &P521_ALGORITHMS[..1],
        ));
        WebPkiSupportedAlgorithms {
            all: all.leak(),
            mapping: mapping.leak(),
        }
    });
    *SUPPORTED
}

static P521_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    &P521(Hash::Sha512),
    &P521(Hash::Sha384),
    &P521(Hash::Sha256),
];

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

/// ECDSA on P-521 with a hash.
#[derive(Debug)]
struct P521(Hash);

/// The size in bytes of an element of the curve's field.
const FIELD: usize = 66;

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        // A hash that is shorter than the field is padded in front.
        let mut padded = [0; FIELD];
        let mut place = |hash: &[u8]| padded[FIELD - hash.len()..].copy_from_slice(hash);
        match self.0 {
            Hash::Sha256 => place(&Sha256::digest(message)),
            Hash::Sha384 => place(&Sha384::digest(message)),
            Hash::Sha512 => place(&Sha512::digest(message)),
        }
        key.verify_prehash(&padded, &signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

/// Key exchange on P-521. In TLS 1.2, a server presents a certificate on this curve only to clients
/// that offer it.
#[derive(Debug)]
struct P521Group;

impl SupportedKxGroup for P521Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        loop {
            let mut bytes = [0; FIELD];
            getrandom::fill(&mut bytes).map_err(|_| Error::FailedToGetRandomBytes)?;
            // The field has 521 bits.
            bytes[0] &= 1;
            // Nearly every such number is a valid key.
            if let Ok(secret) = SecretKey::from_slice(&bytes) {
                let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
                return Ok(Box::new(P521Exchange { secret, public }));
            }
        }
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct P521Exchange {
    secret: SecretKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for P521Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let wrong = || Error::from(PeerMisbehaved::InvalidKeyShare);
        // TLS does not allow compressed points.
        if peer.first() != Some(&4) {
            return Err(wrong());
        }
        let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| wrong())?;
        let shared = diffie_hellman(self.secret.to_nonzero_scalar(), peer.as_affine());
        Ok(SharedSecret::from(shared.raw_secret_bytes().as_slice()))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

/// Loads the keys of client certificates.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let p521 = match &key {
            PrivateKeyDer::Pkcs8(key) => Key::from_pkcs8_der(key.secret_pkcs8_der()).ok(),
            PrivateKeyDer::Sec1(key) => SecretKey::from_sec1_der(key.secret_sec1_der())
                .ok()
                .map(|key| Key::from(&key)),
            _ => None,
        };
        match p521 {
            Some(key) => Ok(Arc::new(P521Key(Arc::new(key)))),
            None => ring::default_provider().key_provider.load_private_key(key),
        }
    }
}

struct P521Key(Arc<Key>);

impl std::fmt::Debug for P521Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("P521Key")
    }
}

impl SigningKey for P521Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP521_SHA512)
            .then(|| Box::new(P521Key(self.0.clone())) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for P521Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: Signature = self
            .0
            .try_sign(message)
            .map_err(|_| Error::General("signing failed".into()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}
