//! How a node joins its dataflow, and why it may leave early.

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

/// Reasons for a node to end before its work is done that are not faults of this node.
#[derive(Debug, Error)]
pub enum Leave {
    /// Another node has ended first and reports why.
    #[error("{0}")]
    EndedEarly(String),
    /// All failures have been reported already, case by case.
    #[error("{0}")]
    Told(String),
}

/// Whether this process has joined its dataflow.
static JOINED: AtomicBool = AtomicBool::new(false);

/// This node's configuration from dora; `None` outside a dataflow.
fn config() -> Option<&'static NodeConfig> {
    static CONFIG: OnceLock<Option<NodeConfig>> = OnceLock::new();
    CONFIG.get_or_init(|| serde_yaml::from_str(&env::var("DORA_NODE_CONFIG").ok()?).ok()).as_ref()
}

/// Name of this node in its dataflow, else of the program.
pub(super) fn node_name() -> String {
    config().map(|config| config.node_id.to_string()).unwrap_or_else(|| {
        let program = env::current_exe().unwrap_or_default();
        program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    })
}

/// How much shared memory this node's dataflow may use.
pub(super) fn shared_memory() -> Option<SharedMemory> {
    Some(SharedMemory::for_dataflow(&config()?.dataflow_descriptor, Room::here()))
}

/// Joins the dataflow and waits until all its nodes have joined.
///
/// # Errors
/// [`Leave::EndedEarly`] if another node ends before that; any error of dora.
pub(super) fn join() -> Result<(DoraNode, EventStream)> {
    let joined = match config() {
        Some(config) => DoraNode::init(within_memory(config.clone())),
        None => DoraNode::init_from_env(),
    };
    let joined = joined.map_err(|error| refusal(&chain(&error)))?;
    JOINED.store(true, Ordering::Relaxed);
    Ok(joined)
}

/// Limits the node's pool to what this machine allows.
fn within_memory(mut config: NodeConfig) -> NodeConfig {
    let memory = SharedMemory::for_dataflow(&config.dataflow_descriptor, Room::here());
    if memory != SharedMemory::Share(1.0) {
        let wanted = config.run_config.shared_memory_pool_size.unwrap_or(ByteSize(8 << 20));
        let pool = memory.pool(wanted.as_bytes() as u64);
        config.run_config.shared_memory_pool_size = Some(ByteSize(usize::try_from(pool).unwrap_or(0)));
    }
    config
}

/// Part of dora's message about a node that ended while others waited for it.
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

/// Whether a restart by dora would fail again: the node has failed before it joined the dataflow, because of its
/// settings or files.
pub(super) fn would_fail_again() -> bool {
    let restarts = config().is_some_and(|config| {
        let nodes = config.dataflow_descriptor.get("nodes").and_then(Value::as_sequence);
        let own = |node: &&Value| node.get("id").and_then(Value::as_str) == Some(config.node_id.as_ref());
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
