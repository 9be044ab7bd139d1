//! Settings of the scanner source.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};

use crate::runtime::variables::{number, value, variable};
use crate::scanner::mrd::{MrdListen, Position, Returns, parse_addresses};
use crate::scanner::network::{Listen, parse_titles};
use crate::scanner::{Limits, spool_folder};

/// Value of `SPSAM_LISTEN` without a receiver.
const OFF: &str = "off";

/// What the environment says.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// `SPSAM_LISTEN`, `SPSAM_AE`, `SPSAM_ALLOWED_AES`; `None` = no DICOM receiver.
    pub listen: Option<Listen>,
    /// `SPSAM_MRD` and further variables `SPSAM_MRD_…`; `None` = no MRD server.
    pub mrd: Option<MrdListen>,
    /// `SPSAM_WATCH`: a folder whose DICOM files are taken.
    pub watch: Option<PathBuf>,
    /// `SPSAM_SPOOL`: `.spool` in the output folder by default.
    pub spool: PathBuf,
    /// `SPSAM_SERIES_IDLE_SECS`: a series has ended if no image comes for this long; 5 by default.
    pub series_idle: Duration,
    /// `SPSAM_SPOOL_GB`, `SPSAM_SPOOL_KEEP_MINS`, `SPSAM_MAX_INSTANCE_MB`, `SPSAM_MAX_ASSOCIATIONS`,
    /// `SPSAM_MAX_SERIES`, `SPSAM_ASSOCIATION_IDLE_SECS`.
    pub limits: Limits,
}

impl SourceSettings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A variable with an invalid value, by name; an address that others can reach without a list of who may send;
    /// nothing to receive from.
    pub fn from_env() -> Result<Self> {
        let base = value("SPSAM_BASE").map(PathBuf::from).unwrap_or_default();
        let path = |name: &str| value(name).map(|value| base.join(value));
        let output = path("SPSAM_OUTPUT").unwrap_or_else(|| base.join("output"));
        let settings = Self {
            listen: listen()?,
            mrd: mrd()?,
            watch: path("SPSAM_WATCH"),
            spool: spool_folder(path("SPSAM_SPOOL"), &output),
            series_idle: seconds("SPSAM_SERIES_IDLE_SECS", 5)?,
            limits: limits()?,
        };
        if settings.listen.is_none() && settings.watch.is_none() && settings.mrd.is_none() {
            bail!(
                "SPSAM_LISTEN is `{OFF}`, and neither SPSAM_WATCH nor SPSAM_MRD is set: nothing to receive from"
            );
        }
        Ok(settings)
    }
}

fn seconds(name: &str, default: usize) -> Result<Duration> {
    Ok(Duration::from_secs(number(name, default)?.max(1) as u64))
}

fn listen() -> Result<Option<Listen>> {
    let mut listen = Listen::default();
    if let Some(address) = variable("SPSAM_LISTEN") {
        if address.trim() == OFF {
            return Ok(None);
        }
        listen.address = socket_address("SPSAM_LISTEN", &address)?;
    }
    let titles = |name: &str| {
        let text = variable(name).unwrap_or_default();
        parse_titles(&text).map_err(|reason| eyre!("{name}: {reason}"))
    };
    match titles("SPSAM_AE")?.as_slice() {
        [] => {}
        [title] => listen.title.clone_from(title),
        _ => bail!("SPSAM_AE: one AE title is expected"),
    }
    listen.allowed_titles = titles("SPSAM_ALLOWED_AES")?;
    if listen.is_open_to_all() {
        bail!(
            "SPSAM_LISTEN is {}, which other machines can reach: name the AE titles that may send in SPSAM_ALLOWED_AES",
            listen.address
        );
    }
    Ok(Some(listen))
}

fn socket_address(name: &str, text: &str) -> Result<SocketAddr> {
    let addresses = text.trim().to_socket_addrs();
    let addresses = addresses.wrap_err_with(|| format!("{name} is `{text}`, expected address:port or {OFF}"));
    addresses?.next().ok_or_else(|| eyre!("{name}: no address for `{text}`"))
}

/// The MRD server, if there is to be one; a port alone is one of this machine.
fn mrd() -> Result<Option<MrdListen>> {
    let Some(text) = variable("SPSAM_MRD").filter(|text| text.trim() != OFF) else { return Ok(None) };
    let address = match text.trim().parse::<u16>() {
        Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)),
        Err(_) => socket_address("SPSAM_MRD", &text)?,
    };
    let of = |name: &str| variable(name).unwrap_or_default();
    let wrong = |name: &'static str| move |reason: String| eyre!("{name}: {reason}");
    let default = MrdListen::new(address);
    let mrd = MrdListen {
        allowed: parse_addresses(&of("SPSAM_MRD_ALLOW")).map_err(wrong("SPSAM_MRD_ALLOW"))?,
        position: Position::parse(&of("SPSAM_MRD_POSITION")).map_err(wrong("SPSAM_MRD_POSITION"))?,
        returns: Returns::parse(&of("SPSAM_MRD_RETURN")).map_err(wrong("SPSAM_MRD_RETURN"))?,
        wait: seconds("SPSAM_MRD_WAIT_SECS", default.wait.as_secs() as usize)?,
        pause: seconds("SPSAM_MRD_PAUSE_SECS", default.pause.as_secs() as usize)?,
        connections: number("SPSAM_MRD_CONNECTIONS", default.connections)?.clamp(1, 256),
        ..default
    };
    if mrd.is_open_to_all() {
        bail!(
            "SPSAM_MRD is {}, which other machines can reach: name the IP addresses of the scanners in SPSAM_MRD_ALLOW",
            mrd.address
        );
    }
    Ok(Some(mrd))
}

fn limits() -> Result<Limits> {
    let default = Limits::default();
    let bytes = |name: &str, shift: u32, default: u64| -> Result<u64> {
        let number = number(name, (default >> shift) as usize)?.max(1) as u64;
        number
            .checked_shl(shift)
            .filter(|bytes| bytes >> shift == number)
            .ok_or_else(|| eyre!("{name} is too large"))
    };
    Ok(Limits {
        pdu_bytes: default.pdu_bytes,
        instance_bytes: bytes("SPSAM_MAX_INSTANCE_MB", 20, default.instance_bytes)?,
        associations: number("SPSAM_MAX_ASSOCIATIONS", default.associations)?.clamp(1, 4096),
        association_idle: seconds(
            "SPSAM_ASSOCIATION_IDLE_SECS",
            default.association_idle.as_secs() as usize,
        )?,
        series: number("SPSAM_MAX_SERIES", default.series)?.max(1),
        spool_bytes: bytes("SPSAM_SPOOL_GB", 30, default.spool_bytes)?,
        keep: Duration::from_secs(60 * number("SPSAM_SPOOL_KEEP_MINS", 60)? as u64),
    })
}
