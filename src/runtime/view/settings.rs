//! Settings of the viewer.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use eyre::{Result, WrapErr, eyre};
use serde::Deserialize;

use crate::runtime::variables::{value, variable};

/// Value of `SPSAM_VIEW` without a page.
const OFF: &str = "off";
/// Default of `SPSAM_VIEW`.
const ADDRESS: &str = "127.0.0.1:8765";

/// Where the page is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageAddress {
    /// The host as given, without brackets.
    pub host: String,
    /// What it stands for.
    pub address: SocketAddr,
}

/// What the environment says.
#[derive(Debug, Clone)]
pub struct ViewSettings {
    /// `SPSAM_VIEW`; `None` = no page.
    pub page: Option<PageAddress>,
    /// Names of the classes, background first: those of `SPSAM_MODEL`, if it can be read.
    pub classes: Vec<String>,
}

impl PageAddress {
    /// From `address:port` or `off`.
    ///
    /// # Errors
    /// Another text, or a name without an address, as one line.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text == OFF {
            return Ok(None);
        }
        let expected = || format!("SPSAM_VIEW is `{text}`, expected address:port or {OFF}");
        let mut addresses = text.to_socket_addrs().wrap_err_with(expected)?;
        let address = addresses.next().ok_or_else(|| eyre!(expected()))?;
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Some(Self { host, address }))
    }
}

impl ViewSettings {
    /// Reads the environment, and the names of the classes from the model.
    ///
    /// # Errors
    /// An address that is none.
    pub fn from_env() -> Result<Self> {
        let page = PageAddress::parse(&variable("SPSAM_VIEW").unwrap_or_else(|| ADDRESS.into()))?;
        let base = value("SPSAM_BASE").map(PathBuf::from).unwrap_or_default();
        let classes = value("SPSAM_MODEL").map(|model| class_names(&base.join(model)));
        Ok(Self { page, classes: classes.unwrap_or_default() })
    }
}

/// What this node needs of a bundle (`model.yml`).
#[derive(Deserialize)]
struct Model {
    classes: Vec<String>,
}

/// The names of a bundle's classes; none if it cannot be read, which the loader reports.
fn class_names(model: &Path) -> Vec<String> {
    let file = if model.is_dir() { model.join("model.yml") } else { model.to_owned() };
    let text = fs::read_to_string(file).unwrap_or_default();
    serde_yaml::from_str::<Model>(&text).map(|model| model.classes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_with_a_port() {
        let page = |text| PageAddress::parse(text).unwrap().map(|page| (page.host, page.address.to_string()));
        assert_eq!(page("off"), None);
        assert_eq!(page(" 127.0.0.1:80 "), Some(("127.0.0.1".into(), "127.0.0.1:80".into())));
        assert_eq!(page("[::1]:80"), Some(("::1".into(), "[::1]:80".into())));
        assert_eq!(page("localhost:80").unwrap().0, "localhost");
        for wrong in ["", "8765", "localhost", "127.0.0.1:port", "127.0.0.1:99999", "on"] {
            let error = PageAddress::parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with("SPSAM_VIEW is") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_classes_of_a_shipped_model_have_their_names() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/acdc");
        let names = class_names(&model);
        assert_eq!(names.first().map(String::as_str), Some("background"));
        assert_eq!(names, class_names(&model.join("model.yml")));
        assert!(class_names(Path::new("/no/such/model")).is_empty());
    }
}
