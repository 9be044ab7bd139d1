//! How a node joins its dataflow, and what it says when it leaves too early.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use dora_message::config::ByteSize;
use dora_message::daemon_to_node::NodeConfig;
use dora_node_api::{DoraNode, EventStream};
use eyre::{Report, Result, eyre};
use serde_yaml::Value;
use thiserror::Error;

use super::shared_memory::{Room, SharedMemory};

/// A node of ours ends although its work is not done. Neither is a fault that a person could mend here.
#[derive(Debug, Error)]
pub enum Leave {
    /// Another node has ended first; that one says why.
    #[error("{0}")]
    EndedEarly(String),
    /// What failed has been said already, case by case.
    #[error("{0}")]
    Told(String),
}

/// Whether this process has joined its dataflow.
static JOINED: AtomicBool = AtomicBool::new(false);

/// What dora has told this node; `None` outside of a dataflow.
fn config() -> Option<&'static NodeConfig> {
    static CONFIG: OnceLock<Option<NodeConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| serde_yaml::from_str(&env::var("DORA_NODE_CONFIG").ok()?).ok()).as_ref()
}

/// Name of this node in its dataflow, or of the program.
pub(super) fn node_name() -> String {
    config().map(|config| config.node_id.to_string()).unwrap_or_else(|| {
        let program = env::current_exe().unwrap_or_default();
        program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    })
}

/// The shared memory that the dataflow of this node may use.
pub(super) fn shared_memory() -> Option<SharedMemory> {
    Some(SharedMemory::for_dataflow(&config()?.dataflow_descriptor, Room::here()))
}

/// Joins the dataflow: waits until all its nodes have.
///
/// # Errors
/// [`Leave::EndedEarly`] where another node ends before that; anything that dora cannot do here.
pub(super) fn join() -> Result<(DoraNode, EventStream)> {
    let joined = match config() {
        Some(config) => DoraNode::init(within_memory(config.clone())),
        None => DoraNode::init_from_env(),
    };
    let joined = joined.map_err(|error| refusal(&chain(&error)))?;
    JOINED.store(true, Ordering::Relaxed);
    Ok(joined)
}

/// The node's pool as large as this machine allows.
fn within_memory(mut config: NodeConfig) -> NodeConfig {
    let memory = SharedMemory::for_dataflow(&config.dataflow_descriptor, Room::here());
    if memory != SharedMemory::Share(1.0) {
        let wanted = config.run_config.shared_memory_pool_size.unwrap_or(ByteSize(8 << 20));
        let pool = memory.pool(wanted.as_bytes() as u64);
        config.run_config.shared_memory_pool_size = Some(ByteSize(usize::try_from(pool).unwrap_or(0)));
    }
    config
}

/// dora's words for a node that ended while the others waited for it.
const OTHER_HAS_EXITED: &str = "exited before initializing dora";

fn refusal(error: &str) -> Report {
    match error.split("Node ").nth(1).and_then(|rest| rest.split_once(OTHER_HAS_EXITED)) {
        Some((node, _)) => {
            Report::new(Leave::EndedEarly(format!("node {} has ended before the start", node.trim())))
        }
        None => eyre!("joining the dataflow: {error}"),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether dora would start this node again although that cannot help: it has failed before it joined the dataflow, by its
/// settings or files.
pub(super) fn would_fail_again() -> bool {
    let restarts = config().is_some_and(|config| {
        let nodes = config.dataflow_descriptor.get("nodes").and_then(Value::as_sequence);
        let own = |node: &&Value| node.get("id").and_then(Value::as_str) == Some(&config.node_id.to_string());
        let policy = nodes.into_iter().flatten().find(own).and_then(|node| node.get("restart_policy"));
        policy.and_then(Value::as_str).is_some_and(|policy| policy != "never")
    });
    restarts && !JOINED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waited_for_one_that_failed_has_no_fault_of_its_own() {
        let said = "internal error: failed to init event stream: subscribe failed: Node image-encoder exited before \
                    initializing dora. For more information, run `dora logs 01 --node image-encoder`.";
        let refused = refusal(said);
        assert!(matches!(refused.downcast_ref(), Some(Leave::EndedEarly(_))));
        assert_eq!(refused.to_string(), "node image-encoder has ended before the start");
        let own = refusal("failed to open zenoh session: OS error 12");
        assert!(own.downcast_ref::<Leave>().is_none() && own.to_string().contains("zenoh"));
    }
}
