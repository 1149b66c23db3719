//! TLS towards others: the versions and ciphers of ring, and whom we believe.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

/// Returns the certificates the system trusts. They are read once: that takes milliseconds.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}

/// Returns how we talk to those with a certificate below `roots`.
pub(crate) fn client(roots: Arc<RootCertStore>) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the versions rustls takes by default")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
