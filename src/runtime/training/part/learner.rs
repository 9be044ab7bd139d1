//! The interface between a node and the part of the network that it trains.

use eyre::Result;

use crate::compute::Compute;
use crate::runtime::assembly::Window;
use crate::runtime::input::Input;
use crate::runtime::stage::Emit;
use crate::training::{Part, Stage};

/// A part of the network, as its node trains it.
pub trait Learner: Send + 'static {
    /// Its parameters.
    fn part(&mut self) -> &mut Part;

    /// Device and type of its network.
    fn network(&self) -> Compute;

    /// The inputs of each task, in the order in which the tasks are done for each window; empty while the part is
    /// idle.
    fn tasks(&self, stage: Stage) -> &'static [&'static [Input]];

    /// Does a task and returns the window's loss (0 if there is none). `share` is the window's weight in the step.
    ///
    /// # Errors
    /// Anything that prevents the training.
    fn learn(
        &mut self,
        task: usize,
        window: &Window,
        stage: Stage,
        share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64>;
}
