//! Which keys name a secret.

/// Longer keys name nothing we know.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Whole names, in lower case, without `-` and `_`.
const NAMES: &[&str] = &[
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "idtoken",
    "passwd",
    "password",
    "secret",
    "setcookie",
    "token",
];

/// Names that stay one with words before them: `dbPassword`, `X-Api-Key`, `client_secret`.
const ENDINGS: &[&str] = &[
    "accesskey",
    "accesstoken",
    "apikey",
    "authorization",
    "authtoken",
    "bearertoken",
    "credentials",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "refreshtoken",
    "secret",
    "secretkey",
    "sessiontoken",
];

/// Returns whether a key names a secret. Case, `-` and `_` do not matter.
pub(super) fn is_secret(key: &[u8]) -> bool {
    if key.len() > NAME_BYTES_MAX {
        return false;
    }
    let mut buffer = [0; NAME_BYTES_MAX];
    let mut length = 0;
    for byte in key {
        if !matches!(byte, b'-' | b'_') {
            buffer[length] = byte.to_ascii_lowercase();
            length += 1;
        }
    }
    let name = &buffer[..length];
    NAMES.iter().any(|known| known.as_bytes() == name)
        || ENDINGS.iter().any(|known| name.ends_with(known.as_bytes()))
        || is_variable_of_token(key)
}

/// Returns whether this is an environment variable such as `GITHUB_TOKEN`. A `progressToken` is none.
fn is_variable_of_token(key: &[u8]) -> bool {
    key.ends_with(b"_TOKEN") && !key.iter().any(u8::is_ascii_lowercase)
}
