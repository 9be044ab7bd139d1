//! What takes time, on threads of their own: provisional cases on one, complete ones on the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use eyre::{Result, eyre};
use tokio::sync::mpsc::UnboundedSender;

use super::LiveLoader;
use super::complete::{Complete, write_volumes};
use super::image::Image;
use super::provisional::{Provisional, Request, provisional};
use super::series::Key;
use crate::message::control::LiveCase;
use crate::runtime::stage::panic_text;
use crate::volume::{CaseFiles, CasePlan, PreparedCase};

/// A job.
pub(super) enum Job {
    /// Make provisional cases.
    Provisional(Request),
    /// Divide a complete series into volumes, and write them.
    Divide { key: Key, name: String, images: Vec<Arc<Image>> },
    /// Read and plan a volume.
    Prepare(Complete),
}

/// The result of a job.
pub(super) enum Made {
    Provisional(Key, Vec<Provisional>),
    Divided(Key, Vec<Result<Complete, (String, String)>>),
    Prepared(CaseFiles, LiveCase, Result<Box<(CasePlan, PreparedCase)>>),
}

/// Starts a thread that does its jobs in order.
///
/// # Errors
/// The system starts no thread.
pub(super) fn start(
    name: &str,
    loader: Arc<LiveLoader>,
    to_io: UnboundedSender<Made>,
) -> Result<mpsc::Sender<Job>> {
    let (to_worker, jobs) = mpsc::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        for job in jobs {
            // The I/O loop ends only at exit.
            let _ = to_io.send(make(&loader, job));
        }
    })?;
    Ok(to_worker)
}

fn make(loader: &LiveLoader, job: Job) -> Made {
    match job {
        Job::Provisional(request) => {
            let key = (request.series_id.clone(), request.revision);
            let cases = catch_unwind(AssertUnwindSafe(|| {
                provisional(&request, &loader.provisional_model, loader.region.as_ref())
            }));
            let cases = cases.unwrap_or_else(|panic| vec![Provisional::Impossible(panic_text(&*panic))]);
            Made::Provisional(key, cases)
        }
        Job::Divide { key, name, images } => {
            let volumes = catch_unwind(AssertUnwindSafe(|| {
                write_volumes(&loader.settings.output, &name, key.1, &images)
            }));
            let volumes = volumes.unwrap_or_else(|panic| vec![Err((name.clone(), panic_text(&*panic)))]);
            Made::Divided(key, volumes)
        }
        Job::Prepare(Complete { files, live }) => {
            let outcome = catch_unwind(AssertUnwindSafe(|| loader.prepare(&files, live.revision)))
                .unwrap_or_else(|panic| Err(eyre!("{}", panic_text(&*panic))));
            Made::Prepared(files, live, outcome.map(Box::new))
        }
    }
}
