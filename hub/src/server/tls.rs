//! The Hub's own certificate: read from files, and read anew when they changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Files are looked at this often at most.
const LOOK: Duration = Duration::from_secs(60);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The file has no certificate.
    #[error("there is no certificate in `{}`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The certificate and the key do not belong together, or are of an unknown kind.
    #[error("the certificate and its key cannot be used")]
    Pair {
        /// What is wrong.
        source: rustls::Error,
    },
}

/// A certificate with its key, as the files have it.
pub(crate) struct Certificates {
    certificate: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Certificates {
    /// Reads the PEM files of a certificate chain and its key.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let loaded = Loaded {
            config: Arc::new(read(certificate, key)?),
            changed: changed(certificate),
            looked: Instant::now(),
        };
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self { certificate, key, loaded: Mutex::new(loaded) })
    }

    /// Returns what new connections use. Files that changed and are wrong leave it as it was.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.looked.elapsed() >= LOOK {
            loaded.looked = Instant::now();
            let now = changed(&self.certificate);
            if now != loaded.changed {
                match read(&self.certificate, &self.key) {
                    Ok(config) => {
                        loaded.config = Arc::new(config);
                        loaded.changed = now;
                        tracing::info!("the certificate was read anew");
                    }
                    Err(error) => tracing::error!(%error, "the new certificate is not used"),
                }
            }
        }
        Arc::clone(&loaded.config)
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(failed(certificate))?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(failed(certificate))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.to_owned() });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(failed(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|source| TlsError::Pair { source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
