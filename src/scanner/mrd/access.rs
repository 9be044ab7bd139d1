//! Who may connect, and what clients get back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::geometry::Position;

/// What is sent back to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Returns {
    /// The mask of every image of a complete series.
    pub masks: bool,
    /// Masks while the series arrives.
    pub provisional: bool,
    /// Every image as it came.
    pub originals: bool,
}

impl Default for Returns {
    fn default() -> Self {
        Self { masks: true, provisional: false, originals: false }
    }
}

impl Returns {
    /// Any of `masks`, `provisional` and `originals`, separated by commas, or `none`; no text: the default.
    ///
    /// # Errors
    /// Another word.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut returns = Self { masks: false, provisional: false, originals: false };
        for word in text.split(',').map(str::trim) {
            match word {
                "masks" => returns.masks = true,
                "provisional" => returns.provisional = true,
                "originals" => returns.originals = true,
                "none" => {}
                _ => return Err(format!("`{word}` is none of masks, provisional, originals and none")),
            }
        }
        Ok(returns)
    }
}

/// Where the server listens, and for whom.
#[derive(Debug, Clone)]
pub struct MrdListen {
    pub address: SocketAddr,
    /// Addresses of clients; empty: any, from this machine only.
    pub allowed: Vec<IpAddr>,
    pub position: Position,
    pub returns: Returns,
    /// How long a client that has sent CLOSE gets masks; 15 min.
    pub wait: Duration,
    /// Longest pause between the messages of a scan; 30 min.
    pub pause: Duration,
    /// Connections at the same time; 8.
    pub connections: usize,
}

impl MrdListen {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            allowed: Vec::new(),
            position: Position::default(),
            returns: Returns::default(),
            wait: Duration::from_secs(15 * 60),
            pause: Duration::from_secs(30 * 60),
            connections: 8,
        }
    }

    /// Whether everybody in the network could connect.
    pub fn is_open_to_all(&self) -> bool {
        !self.address.ip().is_loopback() && self.allowed.is_empty()
    }

    /// Whether this client may connect.
    pub fn allows(&self, client: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.contains(&client.to_canonical())
    }
}

/// IP addresses, separated by commas.
///
/// # Errors
/// A text that is no address.
pub fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parse = |part: &str| {
        let address = part.parse::<IpAddr>().map_err(|_| format!("`{part}` is no IP address"))?;
        Ok(address.to_canonical())
    };
    parts.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_let_in_only_by_address() {
        let mut listen = MrdListen::new("127.0.0.1:9002".parse().unwrap());
        assert!(!listen.is_open_to_all() && listen.allows("127.0.0.1".parse().unwrap()));
        listen.address = "0.0.0.0:9002".parse().unwrap();
        assert!(listen.is_open_to_all());
        listen.allowed = parse_addresses("192.168.2.1, ::ffff:10.0.0.1,").unwrap();
        assert!(!listen.is_open_to_all());
        assert!(listen.allows("10.0.0.1".parse().unwrap()));
        assert!(listen.allows("::ffff:192.168.2.1".parse().unwrap()));
        assert!(!listen.allows("192.168.2.2".parse().unwrap()));
        assert!(parse_addresses("scanner").unwrap_err().contains("`scanner`"));
    }

    #[test]
    fn what_is_returned_is_a_list_of_words() {
        assert_eq!(Returns::parse(""), Ok(Returns::default()));
        let all = Returns { masks: true, provisional: true, originals: true };
        assert_eq!(Returns::parse("originals, masks,provisional"), Ok(all));
        let none = Returns { masks: false, provisional: false, originals: false };
        assert_eq!(Returns::parse("none"), Ok(none));
        assert!(Returns::parse("masks,all").unwrap_err().contains("`all`"));
    }
}
