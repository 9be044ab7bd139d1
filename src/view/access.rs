//! Which requests are answered. A page of another site cannot read this one: a name that its owner lets point to this
//! machine (DNS rebinding) is in `Host`, and the other site is in `Origin`, which browsers always send with a WebSocket.

use std::net::{IpAddr, SocketAddr};

use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, header};

/// The hosts by which the page may be called.
#[derive(Debug, Clone)]
pub struct Access {
    /// The host in the setting, in small letters.
    own: String,
    /// Whether the page is on all addresses of this machine.
    is_everywhere: bool,
}

impl Access {
    /// For a page on `address`, which the setting calls `host`.
    pub fn new(host: &str, address: SocketAddr) -> Self {
        Self { own: plain(host), is_everywhere: address.ip().is_unspecified() }
    }

    /// Whether a request with these headers is answered.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else {
            return false;
        };
        let mut origins = headers.get_all(header::ORIGIN).iter();
        self.knows(&host) && origins.all(|origin| origin.to_str().is_ok_and(|origin| is_of(origin, &host)))
    }

    fn knows(&self, host: &Authority) -> bool {
        if host.as_str().contains('@') {
            return false;
        }
        let name = plain(host.host());
        match name.parse::<IpAddr>() {
            // No name points to an address in figures.
            Ok(address) => address.is_loopback() || self.is_everywhere || name == self.own,
            Err(_) => name == "localhost" || name == self.own,
        }
    }
}

/// A host without brackets and the final dot, in small letters.
fn plain(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether an origin is this page itself.
fn is_of(origin: &str, host: &Authority) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let is_web = matches!(origin.scheme_str(), Some("http" | "https"));
    is_web && origin.authority().is_some_and(|of| of.as_str().eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(setting: &str, address: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        Access::new(setting, address.parse().unwrap()).allows(&map)
    }

    fn here(headers: &[(&str, &str)]) -> bool {
        allows("127.0.0.1", "127.0.0.1:8765", headers)
    }

    #[test]
    fn this_machine_is_answered_by_its_own_names_only() {
        for host in
            ["127.0.0.1:8765", "localhost:8765", "LocalHost", "localhost.:1", "[::1]:8765", "127.0.0.2"]
        {
            assert!(here(&[("host", host)]), "{host}");
        }
        for host in [
            "evil.example:8765",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:8765",
            "",
            "localhost@evil.example",
            "evil@localhost",
            "[::2]",
            "0.0.0.0:8765",
        ] {
            assert!(!here(&[("host", host)]), "{host}");
        }
        assert!(!here(&[]), "no host");
        assert!(!here(&[("host", "localhost"), ("host", "evil.example")]), "two hosts");
    }

    #[test]
    fn other_sites_are_not_answered() {
        let with = |origin| here(&[("host", "localhost:8765"), ("origin", origin)]);
        assert!(with("http://localhost:8765") && with("http://LOCALHOST:8765"));
        for origin in [
            "http://evil.example",
            "http://localhost:9999",
            "http://localhost",
            "null",
            "file://",
            "",
            "http://localhost:8765.evil.example",
            "http://127.0.0.1:8765",
            "ftp://localhost:8765",
        ] {
            assert!(!with(origin), "{origin}");
        }
    }

    #[test]
    fn another_address_in_the_setting_is_answered_by_that_name() {
        let scanner = |host| allows("Scanner-PC", "192.168.1.5:8765", &[("host", host)]);
        assert!(scanner("scanner-pc:8765") && scanner("localhost:8765"));
        assert!(!scanner("evil.example") && !scanner("192.168.1.6"));
        let everywhere = |host| allows("0.0.0.0", "0.0.0.0:8765", &[("host", host)]);
        assert!(everywhere("192.168.1.5:8765") && everywhere("[2001:db8::1]:8765"));
        assert!(!everywhere("evil.example:8765"));
    }
}
