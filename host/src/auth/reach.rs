//! Which addresses may be connected to on a server's word.
//!
//! A server names its authorization server, and that one its endpoints: whoever controls either could
//! make this process fetch from the machine it runs on or from the network around it. So what they name
//! must be `https` and public, unless the user's own config points into such a range. Addresses are
//! judged after resolution, and the judged address is the one that is connected to. A server opens private
//! networks only if it is served there, with a certificate for its name: its owner decides what it resolves
//! to, each time anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// The ranges that a server's own URL opens besides public addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Reach {
    /// This machine, and `http` to it.
    loopback: bool,
    /// The networks around it.
    private: bool,
}

/// Why a URL or an address is not connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither `https` nor `http` to this machine.
    #[error("only `https` is allowed there")]
    Scheme,
    /// A name and a password in the URL.
    #[error("a URL must not hold credentials")]
    Credentials,
    /// An address in a range that the server's own URL is not in.
    #[error("it is not a public address")]
    Range,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zone {
    Public,
    Private,
    Loopback,
    /// Link-local, metadata services, and what no server can have.
    Never,
}

impl Reach {
    /// Returns what the server at `url` opens; `addresses` are those of its host, where it is served.
    ///
    /// Only a URL that says so opens this machine: a public name whose owner lets it point here does
    /// not. A name in the networks around opens them, because companies name their servers.
    pub(super) fn of(url: &Url, addresses: &[IpAddr]) -> Self {
        let zones = || addresses.iter().map(|address| zone(*address));
        Self {
            loopback: is_loopback(url),
            private: !addresses.is_empty() && zones().all(|zone| zone == Zone::Private),
        }
    }

    /// Returns whether it opens private networks.
    pub(super) fn is_private(self) -> bool {
        self.private
    }

    /// Judges a URL before anything is resolved.
    pub(super) fn check(self, url: &Url) -> Result<(), Refusal> {
        match url.scheme() {
            "https" => {}
            "http" if self.loopback && is_loopback(url) => {}
            _ => return Err(Refusal::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Credentials);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Refusal::Range),
        }
    }

    /// Judges what a name resolved to: one bad address spoils the name.
    pub(super) fn check_name(self, name: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        for address in addresses {
            self.check_address(*address)?;
            // `http` is allowed to this name, so it has to mean this machine.
            if is_local_name(name) && zone(*address) != Zone::Loopback {
                return Err(Refusal::Range);
            }
        }
        Ok(())
    }

    fn check_address(self, address: IpAddr) -> Result<(), Refusal> {
        let allowed = match zone(address) {
            Zone::Public => true,
            Zone::Private => self.private,
            Zone::Loopback => self.loopback,
            Zone::Never => false,
        };
        if allowed { Ok(()) } else { Err(Refusal::Range) }
    }
}

/// Returns whether a URL names this machine, by address or as `localhost`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => zone(address.into()) == Zone::Loopback,
        Some(Host::Ipv6(address)) => zone(address.into()) == Zone::Loopback,
        Some(Host::Domain(name)) => is_local_name(name),
        None => false,
    }
}

/// RFC 6761, section 6.3.
fn is_local_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

fn zone(address: IpAddr) -> Zone {
    match address {
        IpAddr::V4(address) => zone_v4(address),
        IpAddr::V6(address) => zone_v6(address),
    }
}

/// After the IANA special-purpose address registry.
fn zone_v4(address: Ipv4Addr) -> Zone {
    match address.octets() {
        [127, ..] => Zone::Loopback,
        // A cloud's metadata service inside a shared range.
        [100, 100, 100, 200] => Zone::Never,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Zone::Private,
        // Benchmarks, and what some VPN clients answer for every name.
        [198, 18..=19, ..] => Zone::Private,
        [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [224..=255, ..] => {
            Zone::Never
        }
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Zone::Never,
        _ => Zone::Public,
    }
}

fn zone_v6(address: Ipv6Addr) -> Zone {
    if address.is_loopback() {
        return Zone::Loopback;
    }
    if let Some(inner) = embedded(address) {
        return zone_v4(inner);
    }
    match address.segments() {
        // A cloud's metadata service inside the unique local range.
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] => Zone::Never,
        [0xfc00..=0xfdff, ..] => Zone::Private,
        // Protocol assignments such as Teredo, and documentation.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Zone::Never,
        [0x2000..=0x3fff, ..] => Zone::Public,
        _ => Zone::Never,
    }
}

/// Returns the IPv4 address that packets to this one end up at: IPv4-mapped, NAT64, 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b] = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0x0064, 0xff9b, 0, 0, 0, 0, a, b] => [a, b],
        [0x2002, a, b, ..] => [a, b],
        _ => return None,
    };
    Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn reach(server: &str, addresses: &[&str]) -> Reach {
        let addresses: Vec<IpAddr> =
            addresses.iter().map(|address| address.parse().unwrap()).collect();
        Reach::of(&url(server), &addresses)
    }

    /// What hostile metadata may name, spelled in all ways that URL parsers accept.
    const NOT_PUBLIC: [&str; 52] = [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://127.255.255.254/",
        "https://0177.0.0.1/",
        "https://0x7f.0.0.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://017700000001/",
        "https://[::1]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://0.0.0.0/",
        "https://0/",
        "https://[::]/",
        "https://0.1.2.3/",
        "https://10.0.0.1/",
        "https://10.255.255.255/",
        "https://012.0.0.1/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.168.0.1/",
        "https://192.168.1/",
        "https://3232235777/",
        "https://100.64.0.1/",
        "https://100.127.255.255/",
        "https://100.100.100.200/",
        "https://169.254.169.254/",
        "https://169.254.0.1/",
        "https://0xa9fea9fe/",
        "https://2852039166/",
        "https://0251.0376.0251.0376/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a00:1::1]/",
        "https://[::127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fec0::1]/",
        "https://[fc00::1]/",
        "https://[fd12:3456::1]/",
        "https://[fd00:ec2::254]/",
        "https://[ff02::1]/",
        "https://[2001::1]/",
        "https://[2001:db8::1]/",
        "https://192.0.0.170/",
        "https://192.0.2.1/",
        "https://198.18.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
    ];

    #[test]
    fn what_is_not_public_is_refused_on_the_word_of_a_public_server() {
        let reach = reach("https://mcp.example/", &["93.184.216.34"]);

        for text in NOT_PUBLIC {
            assert_eq!(reach.check(&url(text)), Err(Refusal::Range), "{text}");
        }
        for text in ["https://93.184.216.34/", "https://[2606:4700::1111]/", "https://a.example/"] {
            assert_eq!(reach.check(&url(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn schemes_and_credentials_are_refused() {
        for (text, refusal) in [
            ("http://a.example/", Refusal::Scheme),
            ("http://127.0.0.1/", Refusal::Scheme),
            ("ftp://a.example/", Refusal::Scheme),
            ("file:///etc/passwd", Refusal::Scheme),
            ("javascript:alert(1)", Refusal::Scheme),
            ("data:text/html,x", Refusal::Scheme),
            ("https://me@a.example/", Refusal::Credentials),
            ("https://:pass@a.example/", Refusal::Credentials),
        ] {
            assert_eq!(Reach::default().check(&url(text)), Err(refusal), "{text}");
        }
    }

    #[test]
    fn server_on_this_machine_opens_it_and_nothing_else() {
        for server in ["http://127.0.0.1:1/mcp", "http://localhost:1/", "http://[::1]:1/"] {
            let reach = reach(server, &["127.0.0.1"]);

            assert_eq!(reach.check(&url("http://127.0.0.1:2/")), Ok(()));
            assert_eq!(reach.check(&url("http://a.localhost/")), Ok(()));
            assert_eq!(reach.check(&url("http://a.example/")), Err(Refusal::Scheme));
            assert_eq!(reach.check(&url("https://10.0.0.1/")), Err(Refusal::Range));
            assert_eq!(reach.check(&url("https://169.254.169.254/")), Err(Refusal::Range));
        }
    }

    #[test]
    fn server_in_a_private_network_opens_it_but_no_metadata_service() {
        let reach = reach("https://mcp.corp.example/", &["10.1.2.3", "fd12::1"]);

        assert_eq!(reach.check(&url("https://192.168.1.1/")), Ok(()));
        assert_eq!(reach.check(&url("http://10.1.2.3/")), Err(Refusal::Scheme));
        assert_eq!(reach.check(&url("https://127.0.0.1/")), Err(Refusal::Range));
        assert_eq!(reach.check(&url("https://169.254.169.254/")), Err(Refusal::Range));
        assert_eq!(reach.check(&url("https://[fd00:ec2::254]/")), Err(Refusal::Range));
    }

    /// Whoever owns the name of a public server decides what it resolves to.
    #[test]
    fn public_name_that_points_here_opens_nothing() {
        let rebound = reach("https://evil.example/", &["127.0.0.1"]);
        let mixed = reach("https://evil.example/", &["93.184.216.34", "10.0.0.1"]);

        assert_eq!(rebound, Reach::default());
        assert_eq!(mixed, Reach::default());
    }

    #[test]
    fn one_bad_address_spoils_the_name() {
        let check = |name: &str, addresses: &[&str]| {
            let addresses: Vec<IpAddr> =
                addresses.iter().map(|address| address.parse().unwrap()).collect();
            Reach { loopback: true, private: false }.check_name(name, &addresses)
        };

        assert_eq!(check("a.example", &["93.184.216.34"]), Ok(()));
        assert_eq!(check("a.example", &["93.184.216.34", "10.0.0.1"]), Err(Refusal::Range));
        assert_eq!(check("localhost", &["127.0.0.1", "::1"]), Ok(()));
        assert_eq!(check("localhost", &["93.184.216.34"]), Err(Refusal::Range));
    }
}
