//! What a node needs of a part of the network to learn with it.

use eyre::Result;

use crate::compute::Compute;
use crate::runtime::assembly::{Input, Window};
use crate::runtime::stage::Emit;
use crate::training::{Part, Stage};

/// A part of the network as its node learns with it.
pub trait Learner: Send + 'static {
    /// Its parameters.
    fn part(&mut self) -> &mut Part;

    /// Where its network computes.
    fn network(&self) -> Compute;

    /// What is done with each window, in this order, by the inputs that it takes; nothing while the part rests.
    fn tasks(&self, stage: Stage) -> &'static [&'static [Input]];

    /// Does a task and gives the window's loss (0 where there is none). `share` is the window's part of the step.
    ///
    /// # Errors
    /// What makes the training impossible.
    fn learn(
        &mut self,
        task: usize,
        window: &Window,
        stage: Stage,
        share: f64,
        emit: &mut Emit<'_>,
    ) -> Result<f64>;
}
