//! What records have in common but for their time, and the series they are of because of it.

use sha2::{Digest, Sha256};

use crate::id::GatewayId;
use crate::wire::RecordKind;

/// Everything that lists are filtered by, but for time and session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Labels {
    pub(super) kind: RecordKind,
    /// `tool_call`, …; of an audit event its type.
    pub(super) operation: String,
    /// JSON-RPC method; empty for audit events.
    pub(super) method: String,
    /// Empty for traces.
    pub(super) severity: String,
    /// Of a trace its status.
    pub(super) outcome: String,
    pub(super) upstream: Option<String>,
    pub(super) name: Option<String>,
    pub(super) client: String,
}

impl Labels {
    /// Returns the id of the series that records of this gateway with these labels are of.
    ///
    /// It is made from them, so that nobody has to ask for it or hand it out. `named` is whether the
    /// name is one of the series, or of the record.
    pub(super) fn series(&self, gateway: GatewayId, named: bool) -> i64 {
        let mut hash = Sha256::new();
        hash.update(gateway.number().to_le_bytes());
        let texts = [
            Some(self.kind.as_str()),
            Some(&*self.operation),
            Some(&*self.method),
            Some(&*self.severity),
            Some(&*self.outcome),
            self.upstream.as_deref(),
            self.name.as_deref().filter(|_| named),
            Some(&*self.client),
        ];
        hash.update([u8::from(named)]);
        for text in texts {
            // A length before each, so that no two lists of texts give the same bytes.
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            hash.update(length.to_le_bytes());
            hash.update(text.unwrap_or_default());
        }
        number(&hash.finalize())
    }
}

/// Returns the number that sessions of this name are found by. Others may have the same one.
pub(super) fn session_key(session: &str) -> i64 {
    number(&Sha256::digest(session))
}

fn number(hash: &[u8]) -> i64 {
    let bytes = hash.first_chunk().expect("a SHA-256 has 32 bytes");
    i64::from_le_bytes(*bytes) & i64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels {
            kind: RecordKind::Traces,
            operation: "tool_call".to_owned(),
            method: "tools/call".to_owned(),
            severity: String::new(),
            outcome: "success".to_owned(),
            upstream: Some("files".to_owned()),
            name: Some("read".to_owned()),
            client: "claude/1".to_owned(),
        }
    }

    #[test]
    fn every_label_makes_another_series() {
        let gateway = GatewayId::from_number(7);
        let other = |change: fn(&mut Labels)| {
            let mut labels = labels();
            change(&mut labels);
            labels.series(gateway, true)
        };

        let ids = [
            labels().series(gateway, true),
            labels().series(gateway, false),
            labels().series(GatewayId::from_number(8), true),
            other(|labels| labels.kind = RecordKind::Audit),
            other(|labels| labels.operation.push('x')),
            other(|labels| labels.method = "x".to_owned()),
            other(|labels| labels.severity = "tools/call".to_owned()),
            other(|labels| labels.outcome = "error".to_owned()),
            other(|labels| labels.upstream = None),
            other(|labels| labels.upstream = Some(String::new())),
            other(|labels| labels.name = None),
            other(|labels| labels.client = "claude/2".to_owned()),
            other(|labels| {
                labels.upstream = Some("filesr".to_owned());
                labels.name = Some("ead".to_owned());
            }),
        ];

        let different: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert!(ids.iter().all(|id| *id >= 0));
    }

    /// Rows keep it: another one would make a second series of the same.
    #[test]
    fn the_id_of_a_series_does_not_change() {
        assert_eq!(labels().series(GatewayId::from_number(7), true), 8_494_518_078_226_707_598);
    }
}
