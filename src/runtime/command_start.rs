//! When the command was given that started this dataflow: what a user waits for begins there.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Clock ticks a second in `/proc/<pid>/stat` (`USER_HZ`, proc(5)): 100 on every platform of ours.
const TICKS_PER_SECOND: u64 = 100;

/// Milliseconds since 1970 at which the command began: the start of `dora run` where that is this process's parent, else
/// the time in the dataflow's id (a UUID of version 7), which dora makes when it takes a dataflow on.
pub(super) fn command_start(dataflow: &Uuid) -> Option<u64> {
    let parent = std::os::unix::process::parent_id();
    let by_parent = is_dora_run(parent).then(|| start_of(parent)).flatten();
    by_parent.or_else(|| {
        let (seconds, nanoseconds) = dataflow.get_timestamp()?.to_unix();
        millis(Duration::new(seconds, nanoseconds))
    })
}

/// Whether a process was called as `… dora run …`, itself or through an interpreter.
fn is_dora_run(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    arguments.windows(2).any(|pair| {
        let program = String::from_utf8_lossy(pair[0]);
        Path::new(program.as_ref()).file_name().is_some_and(|name| name == "dora") && pair[1] == b"run"
    })
}

/// When a process began, milliseconds since 1970.
fn start_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the program's name, which may hold anything, `starttime` is the 20th field (proc(5): the 22nd of all).
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let since_boot = Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND);
    let age = Duration::try_from_secs_f64(uptime).ok()?.saturating_sub(since_boot);
    millis(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(age)?)
}

fn millis(time: Duration) -> Option<u64> {
    u64::try_from(time.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now_ms() -> u64 {
        millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap()).unwrap()
    }

    #[test]
    fn the_start_of_a_process_is_found() {
        let before = now_ms();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let after = now_ms();
        let start = start_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let slack = 50; // two ticks of 10 ms each, and the clocks are read one after the other
        assert!((before - slack..=after + slack).contains(&start.unwrap()), "{before} {start:?} {after}");
    }

    #[test]
    fn without_dora_run_the_id_of_the_dataflow_tells() {
        assert!(!is_dora_run(std::process::id()));
        let id: Uuid = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap(); // RFC 9562, appendix A.6
        assert_eq!(command_start(&id), Some(0x017f_22e2_79b0));
        assert_eq!(command_start(&Uuid::new_v4()), None);
    }
}
