//! Who may send: the address at which the receiver listens, and AE titles.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dicom_ul::association::server::AccessControl;
use dicom_ul::pdu::{AssociationRJServiceUserReason, UserIdentity};

/// Longest AE title.
const LONGEST_TITLE: usize = 16;

/// Where and under which name the receiver listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// AE title of this receiver; peers must call it so.
    pub title: String,
    /// AE titles of peers that may send; empty: any, from this machine only.
    pub allowed_titles: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 11112),
            title: "SPSAM".into(),
            allowed_titles: Vec::new(),
        }
    }
}

impl Listen {
    /// Whether everybody in the network could send.
    pub fn is_open_to_all(&self) -> bool {
        !self.address.ip().is_loopback() && self.allowed_titles.is_empty()
    }
}

/// AE titles, separated by commas.
///
/// # Errors
/// A title that is longer than 16 characters or has others than printable ASCII.
pub fn parse_titles(text: &str) -> Result<Vec<String>, String> {
    let titles = text.split(',').map(str::trim).filter(|title| !title.is_empty());
    titles
        .map(|title| {
            let is_title = title.len() <= LONGEST_TITLE
                && title.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\');
            let reason = || format!("`{title}` is no AE title: at most 16 characters of ASCII without \\");
            is_title.then(|| title.to_owned()).ok_or_else(reason)
        })
        .collect()
}

/// An AE title of a peer in the log.
pub(super) fn shown(title: &str) -> String {
    title.chars().filter(char::is_ascii_graphic).take(LONGEST_TITLE).collect()
}

/// Checks the titles of an association request.
#[derive(Debug, Clone)]
pub(super) struct Access {
    pub allowed: Vec<String>,
}

impl AccessControl for Access {
    fn check_access(
        &self,
        own_title: &str,
        calling_title: &str,
        called_title: &str,
        _identity: Option<&UserIdentity>,
    ) -> Result<(), AssociationRJServiceUserReason> {
        if called_title != own_title {
            return Err(AssociationRJServiceUserReason::CalledAETitleNotRecognized);
        } else if !self.allowed.is_empty() && !self.allowed.iter().any(|title| title == calling_title) {
            return Err(AssociationRJServiceUserReason::CallingAETitleNotRecognized);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_let_in_only_with_a_list() {
        let mut listen = Listen::default();
        assert!(!listen.is_open_to_all());
        listen.address = "0.0.0.0:104".parse().unwrap();
        assert!(listen.is_open_to_all());
        listen.allowed_titles = parse_titles("MR1, CT 2 ,").unwrap();
        assert_eq!(listen.allowed_titles, ["MR1", "CT 2"]);
        assert!(!listen.is_open_to_all());
        assert!(parse_titles("ABCDEFGHIJKLMNOPQ").is_err() && parse_titles("A\\B").is_err());
    }

    #[test]
    fn wrong_titles_are_rejected_by_name() {
        let access = Access { allowed: vec!["MR1".into()] };
        let check = |calling, called| access.check_access("SPSAM", calling, called, None);
        assert_eq!(check("MR1", "SPSAM"), Ok(()));
        assert_eq!(check("MR1", "OTHER"), Err(AssociationRJServiceUserReason::CalledAETitleNotRecognized));
        assert_eq!(check("MR2", "SPSAM"), Err(AssociationRJServiceUserReason::CallingAETitleNotRecognized));
        assert_eq!(Access { allowed: Vec::new() }.check_access("A", "x", "A", None), Ok(()));
    }
}
