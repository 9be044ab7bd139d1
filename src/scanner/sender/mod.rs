//! Sends DICOM instances to another program (C-STORE as a service class user: PS3.4 Annex B, PS3.7 9.1.1, PS3.8).
//!
//! ```no_run
//! # use self_prompt_sam::scanner::sender::{Delivery, Destination, Instance, SendError, TimeLimits, send};
//! # async fn deliver() -> Result<(), Box<dyn std::error::Error>> {
//! let archive = Destination::new("pacs.example:104", "ARCHIVE", "SPSAM")?;
//! let instances = [Instance::of_file("case.seg.dcm".as_ref())?];
//! let Delivery { answers, error } = send(&archive, &TimeLimits::default(), &instances).await;
//! for answer in &answers {
//!     println!("{answer}"); // success, or: out of resources (A700)
//! }
//! // What was not answered may be sent again, if the reason may pass.
//! let may_pass = error.is_some_and(|error| error.is_transient());
//! # let _ = may_pass;
//! # Ok(())
//! # }
//! ```
//!
//! Sending the same instance twice is allowed: a receiver knows it by its UID. To cancel, drop the future or the
//! [`Association`] (the connection is closed, and the receiver forgets an instance that is not complete), or call
//! [`Association::abort`].

mod answer;
mod association;
mod destination;
mod error;
mod instance;

pub use answer::{Answer, Outcome, StoreStatus};
pub use association::{Association, Context, contexts};
pub use destination::{Destination, TimeLimits};
pub use error::SendError;
pub use instance::Instance;

/// What became of instances.
#[derive(Debug)]
pub struct Delivery {
    /// Answers to the first instances, in their order.
    pub answers: Vec<Answer>,
    /// Why the others were not sent.
    pub error: Option<SendError>,
}

/// Sends instances on one association, one after the other, and releases it.
///
/// An instance that is refused is an [`Answer`], not an error; those after it are sent.
pub async fn send(to: &Destination, limits: &TimeLimits, instances: &[Instance]) -> Delivery {
    let mut answers = Vec::with_capacity(instances.len());
    let error = deliver(to, limits, instances, &mut answers).await.err();
    Delivery { answers, error }
}

async fn deliver(
    to: &Destination,
    limits: &TimeLimits,
    instances: &[Instance],
    answers: &mut Vec<Answer>,
) -> Result<(), SendError> {
    let mut association = Association::open(to, limits, &contexts(instances)).await?;
    for instance in instances {
        answers.push(association.store(instance).await?);
    }
    association.release().await;
    Ok(())
}
