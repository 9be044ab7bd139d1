//! Finds out when the command that started this dataflow was given, for the waiting time that the user sees.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// When the command started, milliseconds since 1970: the start of `dora run` if that is this process's parent, else
/// the time in the dataflow's id (a UUID of version 7), which dora makes when it accepts a dataflow.
pub(super) fn command_start(dataflow: &Uuid) -> Option<u64> {
    let parent = std::os::unix::process::parent_id();
    let by_parent = is_dora_run(parent).then(|| start_of(parent)).flatten();
    by_parent.or_else(|| {
        let (seconds, nanoseconds) = dataflow.get_timestamp()?.to_unix();
        millis(Duration::new(seconds, nanoseconds))
    })
}

/// Whether a process is `… dora run …`, called directly or through an interpreter.
fn is_dora_run(process: u32) -> bool {
    let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
    arguments.windows(2).any(|pair| {
        let program = String::from_utf8_lossy(pair[0]);
        Path::new(program.as_ref()).file_name().is_some_and(|name| name == "dora") && pair[1] == b"run"
    })
}

/// When a process started, milliseconds since 1970.
fn start_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    let since_boot = started_after_boot(&stat, ticks_per_second()?)?;
    let age = Duration::try_from_secs_f64(uptime).ok()?.saturating_sub(since_boot);
    millis(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.checked_sub(age)?)
}

/// Time from the system's start to the start of a process, from its `/proc/<pid>/stat`.
fn started_after_boot(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // `starttime` is the 22nd field (proc(5)), the 20th after the program's name, which may contain any character.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second);
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// Clock ticks per second in `/proc/<pid>/stat` (proc(5)).
fn ticks_per_second() -> Option<u64> {
    // SAFETY: this only returns a number.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|&ticks| ticks > 0)
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
        let slack = 50; // two ticks of 10 ms each at the usual rate, and the clocks are read one after another
        assert!((before - slack..=after + slack).contains(&start.unwrap()), "{before} {start:?} {after}");
    }

    #[test]
    fn ticks_are_counted_at_the_rate_of_the_system() {
        // A program's name may contain any character.
        let fields: Vec<String> = (3..=52).map(|field| (field * 1000).to_string()).collect();
        let stat = format!("42 (a) b (c) {}", fields.join(" "));
        let started = |rate| started_after_boot(&stat, rate).unwrap();
        assert_eq!(started(100), Duration::from_secs(220));
        assert_eq!(started(250), Duration::from_secs(88));
        assert_eq!(started(1024), Duration::from_nanos(21_484_375_000));
        assert_eq!(started_after_boot("42 (a", 100), None);
    }

    #[test]
    fn without_dora_run_the_id_of_the_dataflow_tells() {
        assert!(!is_dora_run(std::process::id()));
        let id: Uuid = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f".parse().unwrap(); // RFC 9562, appendix A.6
        assert_eq!(command_start(&id), Some(0x017f_22e2_79b0));
        assert_eq!(command_start(&Uuid::new_v4()), None);
    }
}
