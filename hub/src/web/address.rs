//! The address of a page: everything that the page shows is in it, and every filter, chip and arrow is
//! another address.

use std::fmt;

use url::form_urlencoded;

/// Parameters of an address, those that are empty left out.
const PAIRS_MAX: usize = 64;

/// Of one parameter.
pub(super) const VALUE_BYTES_MAX: usize = 2048;

/// A path, and what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    path: String,
    pairs: Vec<(String, String)>,
}

/// An address with more in it than a page has filters.
#[derive(Debug, thiserror::Error)]
#[error(
    "the address has more than {PAIRS_MAX} parameters, or one of more than {VALUE_BYTES_MAX} bytes"
)]
pub(crate) struct TooLong;

impl Address {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), pairs: Vec::new() }
    }

    /// Reads the address of a request. What is empty, such as the fields of a form that were not filled
    /// in, is left out.
    pub(crate) fn parse(path: &str, query: &str) -> Result<Self, TooLong> {
        let mut address = Self::new(path);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.trim().is_empty() {
                continue;
            }
            if address.pairs.len() == PAIRS_MAX || name.len().max(value.len()) > VALUE_BYTES_MAX {
                return Err(TooLong);
            }
            address.pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(address)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The value of a parameter, the first one if there are several.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).any(|of| of == value)
    }

    /// The same with this as the only value of the parameter.
    pub(crate) fn with(&self, name: &str, value: impl fmt::Display) -> Self {
        self.without(name).and(name, value)
    }

    /// The same with this value too.
    pub(crate) fn and(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.pairs.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same with this value if there is one.
    pub(crate) fn and_some(self, name: &str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.and(name, value),
            None => self,
        }
    }

    /// The same without a parameter.
    pub(crate) fn without(&self, name: &str) -> Self {
        self.keep(|of, _| of != name)
    }

    /// The same without one value of a parameter.
    pub(crate) fn without_value(&self, name: &str, value: &str) -> Self {
        self.keep(|of, is| (of, is) != (name, value))
    }

    /// The same from its first page on, with nothing opened.
    pub(crate) fn first_page(&self) -> Self {
        self.keep(|of, _| !matches!(of, "after" | "panel"))
    }

    /// The same with only these parameters.
    pub(crate) fn only(&self, names: &[&str]) -> Self {
        self.keep(|of, _| names.contains(&of))
    }

    /// The address as a link, unless a parameter is longer than is taken: names of tools and servers have
    /// no limit on the machine that they were seen on.
    pub(crate) fn link(&self) -> Option<String> {
        let fits = self.pairs.iter().all(|(_, value)| value.len() <= VALUE_BYTES_MAX);
        fits.then(|| self.to_string())
    }

    /// The same parameters at another path.
    pub(crate) fn at(&self, path: impl Into<String>) -> Self {
        Self { path: path.into(), pairs: self.pairs.clone() }
    }

    fn keep(&self, keep: impl Fn(&str, &str) -> bool) -> Self {
        let pairs = self.pairs.iter().filter(|(name, value)| keep(name, value)).cloned();
        Self { path: self.path.clone(), pairs: pairs.collect() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.pairs.is_empty() {
            return Ok(());
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.pairs);
        write!(f, "?{}", query.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(query: &str) -> Address {
        Address::parse("/w/ws_1/traces", query).unwrap()
    }

    #[test]
    fn an_address_is_written_as_it_was_read() {
        let read = address("status=error&name=a%26b%22%3C&status=&x=%20");

        assert_eq!(read.get("name"), Some("a&b\"<"));
        assert_eq!(read.to_string(), "/w/ws_1/traces?status=error&name=a%26b%22%3C");
    }

    #[test]
    fn other_addresses_come_of_one() {
        let of = address("state=online&state=idle&after=x&panel=y&sort=name");

        let query = |address: Address| address.to_string().replace("/w/ws_1/traces", "");
        assert_eq!(query(of.first_page().only(&["state"])), "?state=online&state=idle");
        assert_eq!(query(of.without_value("state", "idle").only(&["state"])), "?state=online");
        assert_eq!(query(of.with("state", "offline").only(&["state"])), "?state=offline");
        assert_eq!(query(of.only(&[])), "");
    }

    #[test]
    fn an_address_has_limits() {
        assert!(Address::parse("/", &"a=1&".repeat(65)).is_err());
        assert!(Address::parse("/", &format!("a={}", "x".repeat(3000))).is_err());
        assert_eq!(Address::new("/").and("a", "x".repeat(3000)).link(), None);
        assert_eq!(Address::new("/").and("a", 1).link().unwrap(), "/?a=1");
    }
}
