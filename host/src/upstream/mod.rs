//! An upstream: the handle that everything else sees.

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Gone before the call was sent, or not there yet. Safe to retry.
    #[error("upstream `{upstream}` is not running: {reason}")]
    Closed {
        /// Name in the config.
        upstream: String,
        /// Why.
        reason: String,
    },
    /// Gone while the call was open. The tool may have run: never retry.
    #[error("upstream `{upstream}` ended during the call: {reason}")]
    Lost {
        /// Name in the config.
        upstream: String,
        /// Why.
        reason: String,
    },
    /// No answer in time. The tool may have run: never retry.
    #[error("upstream `{upstream}` gave no answer within {} s", limit.as_secs())]
    Deadline {
        /// Name in the config.
        upstream: String,
        /// The limit.
        limit: std::time::Duration,
    },
    /// What came back is not a response.
    #[error("upstream `{upstream}` sent an invalid message: {reason}")]
    Invalid {
        /// Name in the config.
        upstream: String,
        /// What is wrong.
        reason: String,
    },
}
