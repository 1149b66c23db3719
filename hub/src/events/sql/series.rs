//! Which series the records of a gateway are of: one for all labels, or, when there are very many names, one
//! for all but the name.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::row_ids;
use crate::db::{DbError, Transaction, values};
use crate::events::Origin;
use crate::events::labels::Labels;
use crate::id::GatewayId;

/// Of one gateway. Behind it names are kept with the records: a gateway that reads a million files does not
/// make a million series.
const NAMED_MAX: usize = 2000;

/// Of one gateway, named or not. Nobody has so many servers and clients.
const SERIES_MAX: usize = 10_000;

/// Beside those, for records whose client is not told apart from others any more.
const OTHERS_MAX: usize = 1_000;

/// What stands for such clients.
const OTHERS: &str = "(others)";

/// Ids kept in memory, of all gateways. What is not there is read again.
const KNOWN_MAX: usize = 1_000_000;

/// Where a record belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) series: i64,
    /// Whether its name is one of the series.
    pub(super) named: bool,
}

/// The series that gateways are known to have.
#[derive(Debug, Default)]
pub(super) struct KnownSeries {
    of: Mutex<HashMap<GatewayId, HashSet<i64>>>,
}

/// The series of one gateway, while a batch is stored.
#[derive(Debug)]
pub(super) struct GatewaySeries {
    gateway: GatewayId,
    known: HashSet<i64>,
    new: Vec<i64>,
}

impl KnownSeries {
    /// Returns the series of a gateway. Nothing is kept until [`Self::keep`].
    pub(super) async fn of(
        &self,
        transaction: &mut dyn Transaction,
        origin: Origin,
    ) -> Result<GatewaySeries, DbError> {
        let gateway = origin.gateway;
        let kept = self.lock().get(&gateway).cloned();
        if let Some(known) = kept {
            return Ok(GatewaySeries { gateway, known, new: Vec::new() });
        }
        let sql = "SELECT id FROM series WHERE workspace = $1 AND gateway = $2";
        let rows = transaction.rows(sql, &values![origin.workspace, gateway]).await?;
        let known: HashSet<i64> = row_ids(&rows)?.into_iter().collect();
        // They are there whatever becomes of this transaction.
        let mut of = self.lock();
        if of.values().map(HashSet::len).sum::<usize>() > KNOWN_MAX {
            of.clear();
        }
        of.insert(gateway, known.clone());
        drop(of);
        Ok(GatewaySeries { gateway, known, new: Vec::new() })
    }

    /// Forgets everything: some are not there any more.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Remembers what was committed.
    pub(super) fn keep(&self, series: GatewaySeries) {
        if !series.new.is_empty()
            && let Some(known) = self.lock().get_mut(&series.gateway)
        {
            known.extend(series.new);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<GatewayId, HashSet<i64>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatewaySeries {
    /// Returns where a record with these labels belongs; nothing, if there are far too many series.
    ///
    /// Whoever makes up a client's name with every call loses the names, and not the records: behind a number
    /// of series, all further clients are one.
    pub(super) fn place(&mut self, labels: &mut Labels) -> Option<Place> {
        self.place_within(labels, SERIES_MAX).or_else(|| {
            OTHERS.clone_into(&mut labels.client);
            self.place_within(labels, SERIES_MAX + OTHERS_MAX)
        })
    }

    fn place_within(&mut self, labels: &Labels, most: usize) -> Option<Place> {
        let named = Place { series: labels.series(self.gateway, true), named: true };
        if self.known.contains(&named.series) {
            return Some(named);
        }
        let unnamed = Place { series: labels.series(self.gateway, false), named: false };
        let place = match (&labels.name, self.known.len()) {
            (_, known) if known < NAMED_MAX => named,
            (None, known) if known < most => named,
            (None, _) => return None,
            (Some(_), _) if self.known.contains(&unnamed.series) => return Some(unnamed),
            (Some(_), known) if known < most => unnamed,
            (Some(_), _) => return None,
        };
        self.known.insert(place.series);
        self.new.push(place.series);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RecordKind;

    fn labels(client: &str, name: Option<&str>) -> Labels {
        Labels {
            kind: RecordKind::Traces,
            operation: "resource_read".to_owned(),
            method: "resources/read".to_owned(),
            severity: String::new(),
            outcome: "success".to_owned(),
            upstream: Some("files".to_owned()),
            name: name.map(str::to_owned),
            client: client.to_owned(),
        }
    }

    #[test]
    fn many_names_share_a_series_and_so_do_many_clients() {
        let gateway = GatewayId::from_number(1);
        let mut series = GatewaySeries { gateway, known: HashSet::new(), new: Vec::new() };
        let mut place = |client: &str, name: Option<&str>| series.place(&mut labels(client, name));

        for number in 0..NAMED_MAX {
            assert!(place("a", Some(&number.to_string())).unwrap().named);
        }
        let late = place("a", Some("late")).unwrap();
        assert!(!late.named);
        assert_eq!(place("a", Some("later")), Some(late));
        assert!(place("a", Some("0")).unwrap().named);
        for number in NAMED_MAX + 1..SERIES_MAX {
            assert!(place(&format!("client {number}"), Some("x")).is_some());
        }
        let others = place("one more", Some("x")).unwrap();
        assert!(!others.named);
        assert_eq!(place("another one", Some("y")), Some(others));
        assert_eq!(place("one more", None), place("another one", None));
        assert_eq!(place("a", Some("latest")), Some(late));
        let mut more = labels("one more", Some("x"));
        series.place(&mut more);
        assert_eq!(more.client, OTHERS);
    }
}
