//! Lines of a training's log for the user of the command.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::notice::{Notice, is_heard, tell};
use super::variables::variable;

/// Sends the training's messages (steps, validations) and every warning to the command.
pub(super) struct Said;

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let target = metadata.target();
        let notice = match *metadata.level() {
            Level::WARN if target.starts_with("self_prompt_sam") => Notice::Warned,
            Level::INFO
                if target.starts_with("self_prompt_sam::training")
                    && variable("SPSAM_TRAINING").is_some() =>
            {
                Notice::Said
            }
            _ => return,
        };
        if is_heard() {
            let mut message = Message(String::new());
            event.record(&mut message);
            tell(&notice(message.0));
        }
    }
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
