//! Signatures, checked by the library that TLS uses already: the ones that `jsonwebtoken` brings would be a
//! second implementation of the same.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature as with;

/// What the crate shall use: it signs nothing, and takes keys apart only as [`Public`] does.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Public::verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` use it, for the whole process.
pub(super) fn install() {
    // It fails when it is there already.
    let _ = RING.install_default();
}

/// Returns whether an algorithm has a public key. A shared secret would be known to all who check.
pub(super) fn is_asymmetric(algorithm: Algorithm) -> bool {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512 | ES256 | ES384 | EdDSA)
}

/// A public key, for one algorithm.
struct Public {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Public {
    fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
        if !is_asymmetric(algorithm) || key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Ok(Box::new(Self { algorithm, key: key.clone() }))
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let holds = match self.key.kind() {
            DecodingKeyKind::SecretOrDer(point) => {
                let algorithm: &dyn with::VerificationAlgorithm = match self.algorithm {
                    Algorithm::ES256 => &with::ECDSA_P256_SHA256_FIXED,
                    Algorithm::ES384 => &with::ECDSA_P384_SHA384_FIXED,
                    Algorithm::EdDSA => &with::ED25519,
                    _ => return Err(Error::new()),
                };
                with::UnparsedPublicKey::new(algorithm, point).verify(message, signature)
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                // Of less than 2048 bits is none of them.
                let parameters = match self.algorithm {
                    Algorithm::RS256 => &with::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::RS384 => &with::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::RS512 => &with::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::PS256 => &with::RSA_PSS_2048_8192_SHA256,
                    Algorithm::PS384 => &with::RSA_PSS_2048_8192_SHA384,
                    Algorithm::PS512 => &with::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(Error::new()),
                };
                let key = with::RsaPublicKeyComponents { n: trimmed(n), e: trimmed(e) };
                key.verify(parameters, message, signature)
            }
        };
        holds.map_err(|_| Error::new())
    }
}

/// Some write numbers with a zero before them, which `ring` does not take.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
