//! A DICOM receiver on loopback, for what arbitrary peers send.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use self_prompt_sam::scanner::network::{Listen, Receiver};
use self_prompt_sam::scanner::{Intake, Limits, Spool};

thread_local! {
    static STATION: RefCell<Option<Station>> = const { RefCell::new(None) };
}
/// Inputs for one receiver; then its spool is full of them, and it gives way to a new one.
const ASSOCIATIONS: usize = 300;

/// A DICOM receiver.
struct Station {
    address: SocketAddr,
    served: usize,
    _network: tokio::runtime::Runtime,
    _spool: tempfile::TempDir,
}

impl Station {
    fn open() -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let limits = Limits {
            instance_bytes: 1 << 20,
            association_idle: Duration::from_secs(2),
            series: ASSOCIATIONS,
            spool_bytes: 1 << 28,
            ..Limits::default()
        };
        let spool = Spool::open(folder.path(), limits).map_err(std::io::Error::other)?;
        let intake = Arc::new(Intake::new(spool, |_| {}));
        let network = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut listen = Listen::default();
        listen.address.set_port(0);
        let receiver = network.block_on(Receiver::bind(&listen, intake))?;
        let address = receiver.address()?;
        network.spawn(receiver.run());
        Ok(Self { address, served: 0, _network: network, _spool: folder })
    }

    /// What a peer is answered.
    fn answer(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        self.served += 1;
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let _ = stream.write_all(bytes); // it may have been cut off
        let _ = stream.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        match stream.read_to_end(&mut answers) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer and no end"),
            _ => Ok(answers),
        }
    }
}

/// What a DICOM peer sends to a receiver: an association request and what follows. True if the association was released.
pub fn association(bytes: &[u8]) -> bool {
    const RELEASED: [u8; 10] = [6, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    STATION.with_borrow_mut(|station| {
        if station.as_ref().is_none_or(|station| station.served >= ASSOCIATIONS) {
            *station = None;
            match Station::open() {
                Ok(opened) => *station = Some(opened),
                Err(error) => panic!("a receiver on loopback: {error}"),
            }
        }
        let answers = station.as_mut().map(|station| station.answer(bytes));
        answers.is_some_and(|answers| answers.is_ok_and(|answers| answers.ends_with(&RELEASED)))
    })
}
