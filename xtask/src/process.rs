//! Runs other programs, with errors that name the command.

use eyre::{WrapErr, bail};
use std::process::{Command, Stdio};

/// Runs `command` on this terminal.
///
/// # Errors
/// If it cannot be started or does not exit with 0; the message has the whole command line.
pub fn run(command: &mut Command) -> eyre::Result<()> {
    let status = command.status().wrap_err_with(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output, trimmed.
///
/// # Errors
/// If it cannot be started or does not exit with 0; the message has its standard error.
pub fn capture(command: &mut Command) -> eyre::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .wrap_err_with(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", line(command), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The command as one would type it, without its environment.
pub fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_names_the_command_and_its_exit() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c exit 3") && error.contains('3'), "{error}");
    }

    #[test]
    fn missing_program_is_named() {
        let error = capture(&mut Command::new("/no/such/program")).unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
