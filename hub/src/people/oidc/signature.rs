//! Signatures of tokens, checked by the library that TLS uses already.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature as with;

/// What `jsonwebtoken` shall use: it signs nothing.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Public::verifier(*algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` use it, for the whole process. A gateway in the same process has one that does the
/// same, and whichever came first stays.
pub(super) fn install() {
    // It fails when there is one already.
    let _ = RING.install_default();
}

/// Whether an algorithm has a public key. A shared secret would be known to all who check.
pub(super) fn is_asymmetric(algorithm: Algorithm) -> bool {
    parameters(algorithm).is_some()
}

/// How a signature is checked.
enum Parameters {
    Point(&'static dyn with::VerificationAlgorithm),
    Rsa(&'static with::RsaParameters),
}

fn parameters(algorithm: Algorithm) -> Option<Parameters> {
    use Parameters::{Point, Rsa};
    match algorithm {
        Algorithm::ES256 => Some(Point(&with::ECDSA_P256_SHA256_FIXED)),
        Algorithm::ES384 => Some(Point(&with::ECDSA_P384_SHA384_FIXED)),
        Algorithm::EdDSA => Some(Point(&with::ED25519)),
        Algorithm::RS256 => Some(Rsa(&with::RSA_PKCS1_2048_8192_SHA256)),
        Algorithm::RS384 => Some(Rsa(&with::RSA_PKCS1_2048_8192_SHA384)),
        Algorithm::RS512 => Some(Rsa(&with::RSA_PKCS1_2048_8192_SHA512)),
        Algorithm::PS256 => Some(Rsa(&with::RSA_PSS_2048_8192_SHA256)),
        Algorithm::PS384 => Some(Rsa(&with::RSA_PSS_2048_8192_SHA384)),
        Algorithm::PS512 => Some(Rsa(&with::RSA_PSS_2048_8192_SHA512)),
        _ => None,
    }
}

/// A public key, for one algorithm.
struct Public {
    algorithm: Algorithm,
    parameters: Parameters,
    key: DecodingKey,
}

impl Public {
    fn verifier(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
        let parameters = parameters(algorithm).filter(|_| key.family() == algorithm.family());
        let parameters = parameters.ok_or(ErrorKind::InvalidAlgorithm)?;
        Ok(Box::new(Self { algorithm, parameters, key: key.clone() }))
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let holds = match (self.key.kind(), &self.parameters) {
            (DecodingKeyKind::SecretOrDer(point), Parameters::Point(algorithm)) => {
                with::UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            (DecodingKeyKind::RsaModulusExponent { n, e }, Parameters::Rsa(parameters)) => {
                let key = with::RsaPublicKeyComponents { n: trimmed(n), e: trimmed(e) };
                key.verify(parameters, message, signature)
            }
            (DecodingKeyKind::SecretOrDer(_), Parameters::Rsa(_))
            | (DecodingKeyKind::RsaModulusExponent { .. }, Parameters::Point(_)) => {
                return Err(Error::new());
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
