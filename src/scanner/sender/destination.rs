//! Where instances are sent, and how long that may take.

use std::time::Duration;

use crate::scanner::network::parse_titles;

/// A receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// `host:port`.
    pub(super) address: String,
    /// AE title by which the receiver is called.
    pub(super) called_title: String,
    /// AE title of this program.
    pub(super) calling_title: String,
}

impl Destination {
    /// A receiver at `host:port`. The host is looked up when an association is opened.
    ///
    /// # Errors
    /// An address without a port, or an AE title that is none (PS3.5 6.2: at most 16 characters of ASCII), in one line.
    pub fn new(address: &str, called_title: &str, calling_title: &str) -> Result<Self, String> {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(format!("`{address}` is no address: expected host:port"));
        }
        Ok(Self {
            address: address.into(),
            called_title: title(called_title)?,
            calling_title: title(calling_title)?,
        })
    }

    /// A receiver given as `AE@host:port`.
    ///
    /// # Errors
    /// As [`Destination::new`].
    pub fn parse(text: &str, calling_title: &str) -> Result<Self, String> {
        let (called_title, address) =
            text.rsplit_once('@').ok_or_else(|| format!("`{text}` is no receiver: expected AE@host:port"))?;
        Self::new(address.trim(), called_title, calling_title)
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// AE title by which the receiver is called.
    pub fn called_title(&self) -> &str {
        &self.called_title
    }
}

fn title(text: &str) -> Result<String, String> {
    match parse_titles(text)?.as_slice() {
        [title] => Ok(title.clone()),
        _ => Err(format!("`{text}`: one AE title is expected")),
    }
}

/// How long the receiver may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimits {
    /// To look up its name and accept the connection; 10 s.
    pub connect: Duration,
    /// To take a PDU; 30 s.
    pub take: Duration,
    /// To answer an association request, an instance or a release; 60 s.
    pub answer: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            take: Duration::from_secs(30),
            answer: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_titles_are_checked() {
        let new = Destination::new;
        assert!(new("pacs:104", "ARCHIVE", "SPSAM").is_ok() && new("[::1]:104", "A B", "C").is_ok());
        for (address, called, calling) in [
            ("pacs", "A", "B"),
            (":104", "A", "B"),
            ("pacs:x", "A", "B"),
            ("pacs:104", "", "B"),
            ("pacs:104", "A,B", "C"),
            ("pacs:104", "A", "LONGER THAN SIXTEEN"),
        ] {
            assert!(new(address, called, calling).is_err(), "{address} {called} {calling}");
        }
        let parsed = Destination::parse("ARCHIVE@pacs:104", "SPSAM");
        assert_eq!(parsed, new("pacs:104", "ARCHIVE", "SPSAM"));
        for wrong in ["", "pacs:104", "@pacs:104", "ARCHIVE@pacs", "ARCHIVE@:104"] {
            assert!(Destination::parse(wrong, "SPSAM").is_err(), "{wrong}");
        }
    }
}
